//! A small hub on loopback.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// Where a hub redirects requests of the files to.
pub(crate) const STORE: &str = "/store";

/// What the hub does wrong with the weights.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Mood {
    Well,
    /// Connections break after this many bytes, as often as it says.
    Breaks {
        after: usize,
        times: usize,
    },
    /// A byte is another one.
    Corrupts,
    /// Everything is sent, whatever was asked for.
    IgnoresRanges,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    /// As in the header, without its unit.
    range: Option<String>,
}

/// A hub with one repository.
pub(crate) struct Hub {
    pub(crate) url: String,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    mood: Mutex<Mood>,
    /// Answers to the next requests, whatever they are.
    answers: Mutex<VecDeque<String>>,
    /// What stands before and behind a tag.
    tag: Mutex<(&'static str, &'static str)>,
    /// Where files lie: a base URL that requests for them are redirected to.
    store: Mutex<Option<String>>,
    asked: Mutex<Vec<Asked>>,
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../steerling/tests/goldens/nano")
}

/// An answer with a body, and headers each of which ends its line.
pub(crate) fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

impl Hub {
    pub(crate) fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let names = ["config.json", WEIGHTS, "tokenizer.json"];
        let mut files: BTreeMap<_, _> =
            names.map(|name| (name.to_owned(), std::fs::read(golden().join(name)).unwrap())).into();
        files.insert("pytorch_model.bin".to_owned(), vec![0; 10]);
        files.insert("../outside.json".to_owned(), b"{}".to_vec());
        let hub = Arc::new(Self {
            url,
            files,
            mood: Mutex::new(Mood::Well),
            answers: Mutex::default(),
            tag: Mutex::new(("\"", "\"")),
            store: Mutex::default(),
            asked: Mutex::default(),
        });
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

    pub(crate) fn mood(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// The next requests are answered so.
    pub(crate) fn next(&self, answers: impl IntoIterator<Item = String>) {
        *self.answers.lock().unwrap() = answers.into_iter().collect();
    }

    /// Tags of files stand between these from now on.
    pub(crate) fn tag(&self, before: &'static str, behind: &'static str) {
        *self.tag.lock().unwrap() = (before, behind);
    }

    /// Files lie there from now on.
    pub(crate) fn store_at(&self, base: &str) {
        *self.store.lock().unwrap() = Some(base.to_owned());
    }

    /// Requests since the last call.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// First bytes of the requests for the whole rest of the weights since the last call.
    pub(crate) fn starts(&self) -> Vec<usize> {
        let asked = self.asked().into_iter().filter(|asked| asked.path.ends_with(WEIGHTS));
        asked.filter_map(|asked| asked.range?.strip_suffix('-')?.parse().ok()).collect()
    }

    fn answer(&self, mut connection: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(connection.try_clone()?).lines();
        let head = lines.next().unwrap()?;
        let headers: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let header = |name: &str| {
            let of = |line: &String| line.split_once(": ").map(|(n, value)| (n.to_lowercase(), value.to_owned()));
            headers.iter().filter_map(of).find(|(found, _)| found == name).map(|(_, value)| value)
        };
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let range = header("range").map(|range| range.trim_start_matches("bytes=").to_owned());
        let asked = Asked { path: path.clone(), authorization: header("authorization"), range: range.clone() };
        self.asked.lock().unwrap().push(asked);
        if let Some(answer) = self.answers.lock().unwrap().pop_front() {
            return connection.write_all(answer.as_bytes());
        }
        if path == "/api/models/owner/nano/revision/main" {
            let siblings: Vec<_> = self.files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
            let body = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string();
            return connection.write_all(answer("200 OK", "", &body).as_bytes());
        }
        let resolved = path.strip_prefix(&format!("/owner/nano/resolve/{COMMIT}/"));
        let stored = path.strip_prefix(STORE).map(|name| name.trim_start_matches('/'));
        let name = resolved.or(stored).unwrap_or_default().to_owned();
        let Some(content) = self.files.get(&name) else {
            return connection.write_all(answer("404 Not Found", "", "").as_bytes());
        };
        let (before, behind) = *self.tag.lock().unwrap();
        let checksum = if name == WEIGHTS { sha256(content) } else { git_id(content) };
        let tag = format!("{before}{checksum}{behind}");
        let store = self.store.lock().unwrap().clone();
        if let (Some(base), Some(_)) = (store, resolved) {
            let headers = format!("location: {base}/{name}\r\nx-linked-etag: {tag}\r\n");
            return connection.write_all(answer("302 Found", &headers, "").as_bytes());
        }
        // A store names what it holds by names of its own.
        let tag = if stored.is_some() { "\"a-name-of-its-own\"".to_owned() } else { tag };
        self.send(connection, &name, content, &tag, range.as_deref())
    }

    /// A file or a part of it.
    fn send(
        &self,
        mut connection: TcpStream,
        name: &str,
        content: &[u8],
        tag: &str,
        range: Option<&str>,
    ) -> std::io::Result<()> {
        let (start, end) = range.unwrap_or("0-").split_once('-').unwrap();
        let start: usize = start.parse().unwrap();
        let end = end.parse().map_or(content.len(), |end: usize| end + 1);
        let mut body = content[start..end].to_vec();
        let mut send = body.len();
        let mood = *self.mood.lock().unwrap();
        if end == content.len() && name == WEIGHTS {
            match mood {
                Mood::Breaks { after, times } if times > 0 => {
                    send = send.min(after);
                    self.mood(Mood::Breaks { after, times: times - 1 });
                }
                Mood::Corrupts => body[0] ^= 1,
                _ => {}
            }
        }
        if mood == Mood::IgnoresRanges {
            let len = content.len();
            write!(connection, "HTTP/1.1 200 OK\r\netag: {tag}\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n")?;
            return connection.write_all(content);
        }
        write!(
            connection,
            "HTTP/1.1 206 Partial Content\r\netag: {tag}\r\ncontent-range: bytes {start}-{}/{}\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            end - 1,
            content.len(),
            body.len()
        )?;
        connection.write_all(&body[..send])
    }

    pub(crate) fn download(&self, out: &Path) -> Output {
        self.command(out).output().unwrap()
    }

    pub(crate) fn download_with_token(&self, token: &str, out: &Path) -> Output {
        self.command(out).env("HF_TOKEN", token).output().unwrap()
    }

    fn command(&self, out: &Path) -> Command {
        let mut command = download("owner/nano", &self.url);
        command.arg("--out").arg(out);
        command
    }
}

/// The command, without what this environment says of hubs and proxies.
pub(crate) fn download(repo: &str, endpoint: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steerling"));
    command.args(["download", repo]).env("HF_ENDPOINT", endpoint).env_remove("HF_TOKEN");
    for proxy in ["http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(proxy).env_remove(proxy.to_uppercase());
    }
    command
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

fn git_id(content: &[u8]) -> String {
    let mut hasher = sha1::Sha1::new();
    hasher.update(format!("blob {}\0", content.len()));
    hasher.update(content);
    hex(&hasher.finalize())
}
