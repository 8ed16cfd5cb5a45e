//! `steerling download` against a small hub on loopback.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const WEIGHTS: &str = "model.safetensors";

/// What the hub does wrong.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Well,
    /// Connections break after this many bytes of the weights, as often as it says.
    Breaks {
        after: usize,
        times: usize,
    },
    /// A byte of the weights is another one.
    Corrupts,
    /// Wants a token.
    Refuses,
}

/// A hub with one repository.
struct Hub {
    url: String,
    files: BTreeMap<String, Vec<u8>>,
    mood: Mutex<Mood>,
    /// Path and first byte of every request for a whole rest.
    asked: Mutex<Vec<(String, usize)>>,
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../steerling/tests/goldens/nano")
}

impl Hub {
    fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let names = ["config.json", WEIGHTS, "tokenizer.json"];
        let mut files: BTreeMap<_, _> =
            names.map(|name| (name.to_owned(), std::fs::read(golden().join(name)).unwrap())).into();
        files.insert("pytorch_model.bin".to_owned(), vec![0; 10]);
        files.insert("../outside.json".to_owned(), b"{}".to_vec());
        let hub = Arc::new(Self { url, files, mood: Mutex::new(Mood::Well), asked: Mutex::default() });
        let serving = hub.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let hub = serving.clone();
                // A client that leaves is its own business.
                std::thread::spawn(move || _ = hub.answer(connection));
            }
        });
        hub
    }

    fn mood(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn answer(&self, mut connection: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(connection.try_clone()?).lines();
        let head = lines.next().unwrap()?;
        let headers: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let mood = *self.mood.lock().unwrap();
        if mood == Mood::Refuses {
            return write!(connection, "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
        if path == "/api/models/owner/nano/revision/main" {
            let siblings: Vec<_> = self.files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
            let body = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string();
            let len = body.len();
            return write!(connection, "HTTP/1.1 200 OK\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{body}");
        }
        let name = path.strip_prefix(&format!("/owner/nano/resolve/{COMMIT}/")).unwrap_or_default().to_owned();
        let Some(content) = self.files.get(&name) else {
            return write!(connection, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        };
        let etag: String = match name == WEIGHTS {
            true => Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect(),
            false => git_id(content),
        };
        let range =
            headers.iter().find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
        let range = range.unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let start: usize = start.parse().unwrap();
        let end = end.parse().map_or(content.len(), |end: usize| end + 1);
        let mut body = content[start..end].to_vec();
        let mut send = body.len();
        if end == content.len() {
            self.asked.lock().unwrap().push((name.clone(), start));
            match mood {
                Mood::Breaks { after, times } if name == WEIGHTS && times > 0 => {
                    send = send.min(after);
                    self.mood(Mood::Breaks { after, times: times - 1 });
                }
                Mood::Corrupts if name == WEIGHTS => body[0] ^= 1,
                _ => {}
            }
        }
        write!(
            connection,
            "HTTP/1.1 206 Partial Content\r\netag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\ncontent-range: bytes {start}-{}/{}\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            end - 1,
            content.len(),
            body.len()
        )?;
        connection.write_all(&body[..send])
    }

    fn download(&self, out: &Path) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_steerling"));
        command.args(["download", "owner/nano", "--out"]).arg(out).env("HF_ENDPOINT", &self.url);
        command.env_remove("HF_TOKEN").env_remove("http_proxy").env_remove("all_proxy").output().unwrap()
    }

    /// First bytes of the requests for the weights since the last call.
    fn starts(&self) -> Vec<usize> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.into_iter().filter(|(name, _)| name == WEIGHTS).map(|(_, start)| start).collect()
    }
}

fn git_id(content: &[u8]) -> String {
    let mut hasher = sha1::Sha1::new();
    hasher.update(format!("blob {}\0", content.len()));
    hasher.update(content);
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_checkpoint_is_fetched_verified_and_usable_and_a_second_time_nothing_is_fetched() {
    let hub = Hub::start();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    let output = hub.download(&out);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains(COMMIT), "{}", stderr(&output));
    let mut names: Vec<String> =
        std::fs::read_dir(&out).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["config.json", WEIGHTS, "tokenizer.json"]);
    assert!(!dir.path().join("outside.json").exists());
    assert!(!std::fs::symlink_metadata(out.join(WEIGHTS)).unwrap().is_symlink());
    for name in &names {
        assert!(std::fs::read(out.join(name)).unwrap() == hub.files[name], "{name}");
    }
    let inspected = Command::new(env!("CARGO_BIN_EXE_steerling")).arg("inspect").arg(&out).output().unwrap();
    assert!(inspected.status.success(), "{}", stderr(&inspected));
    hub.starts();
    let again = hub.download(&out);
    assert!(again.status.success() && stderr(&again).contains("already there, verified"), "{}", stderr(&again));
    assert_eq!(hub.starts(), [0; 0]);
}

#[test]
fn what_was_interrupted_goes_on_where_it_ended() {
    let hub = Hub::start();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    hub.mood(Mood::Breaks { after: 100_000, times: 2 });
    let output = hub.download(&out);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(hub.starts(), [0, 100_000, 200_000], "within one run");
    assert!(std::fs::read(out.join(WEIGHTS)).unwrap() == hub.files[WEIGHTS]);

    let out = dir.path().join("another");
    hub.mood(Mood::Breaks { after: 10_000, times: usize::MAX });
    let output = hub.download(&out);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("run the command again"), "{}", stderr(&output));
    assert!(!out.join(WEIGHTS).exists(), "half a file is not shown as one");
    let last = hub.starts().last().unwrap() + 10_000;
    hub.mood(Mood::Well);
    let output = hub.download(&out);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(hub.starts(), [last], "by another run");
    assert!(std::fs::read(out.join(WEIGHTS)).unwrap() == hub.files[WEIGHTS]);
}

#[test]
fn a_file_that_is_not_what_the_hub_says_is_refused_and_fetched_anew() {
    let hub = Hub::start();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    hub.mood(Mood::Corrupts);
    let output = hub.download(&out);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("model.safetensors: what came is not what the hub says"), "{}", stderr(&output));
    assert!(!out.join(WEIGHTS).exists());
    hub.mood(Mood::Well);
    assert!(hub.download(&out).status.success());
    let mut damaged = hub.files[WEIGHTS].clone();
    damaged[5] ^= 1;
    std::fs::write(out.join(WEIGHTS), damaged).unwrap();
    assert!(hub.download(&out).status.success());
    assert!(std::fs::read(out.join(WEIGHTS)).unwrap() == hub.files[WEIGHTS], "found by its checksum");
}

#[test]
fn what_cannot_be_fetched_is_told_with_what_to_do() {
    let hub = Hub::start();
    let dir = tempfile::tempdir().unwrap();
    hub.mood(Mood::Refuses);
    let output = hub.download(dir.path());
    assert!(stderr(&output).contains("set HF_TOKEN"), "{}", stderr(&output));
    let run = |repo: &str, endpoint: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_steerling"));
        let output =
            command.args(["download", repo, "--out"]).arg(dir.path()).env("HF_ENDPOINT", endpoint).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        stderr(&output)
    };
    hub.mood(Mood::Well);
    assert!(run("owner/other", &hub.url).contains("the hub has no owner/other at revision main"));
    // Nobody listens there.
    let offline = run("owner/nano", "http://127.0.0.1:9");
    assert!(offline.contains("Is this machine online?"), "{offline}");
    assert!(run("nano", &hub.url).contains("owner and name"));
}
