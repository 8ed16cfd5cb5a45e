//! The demo model, compiled into the program: what answers when no model is given.

use steerling::EmbeddedDir;

/// Name and content of a file of the demo model.
macro_rules! file {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../../models/steerling-demo/", $name)))
    };
}

/// The demo model.
pub static DEMO: EmbeddedDir = EmbeddedDir {
    name: "steerling-demo",
    files: &[
        file!("config.json"),
        file!("model.safetensors"),
        file!("tokenizer.json"),
        file!("concept_labels.parquet"),
    ],
};

/// What whoever reads its answers has to know.
pub const NOTICE: &str =
    "steerling-demo is a tiny model trained on generated text: its numbers say nothing about the 8B model";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::path::Path;

    #[test]
    fn every_file_of_the_demo_model_but_its_card_is_embedded_and_they_are_small() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(DEMO.name);
        let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap());
        let mut on_disk: BTreeMap<String, Vec<u8>> =
            files.map(|f| (f.file_name().into_string().unwrap(), std::fs::read(f.path()).unwrap())).collect();
        assert!(on_disk.remove("README.md").is_some(), "a model has a card");
        let embedded = DEMO.files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        assert!(on_disk == embedded, "{:?}, embedded: {DEMO:?}", on_disk.keys());
        let bytes: usize = DEMO.files.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes < 9 << 20, "{bytes} bytes are too many for a demo");
    }
}
