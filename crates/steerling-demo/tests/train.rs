//! A training of a few updates.

use candle_core::Device;
use steerling::{Model, ModelSource, RuntimeOptions};
use steerling_demo::train::{TrainOptions, train};

#[test]
fn training_learns_writes_a_checkpoint_and_goes_on_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = TrainOptions {
        out: dir.path().to_owned(),
        steps: 80,
        resume: None,
        batch: 6,
        length: 96,
        learning_rate: 5e-3,
        seed: 1,
        threads: 2,
    };
    let run = |options: &TrainOptions| {
        let mut language = Vec::new();
        train(options, &Device::Cpu, &mut |step, losses| {
            assert!(losses.iter().all(|(_, loss)| loss.is_finite()), "step {step}: {losses:?}");
            language.extend(losses.iter().filter(|(name, _)| *name == "language").map(|(_, loss)| *loss));
            Ok(())
        })
        .unwrap();
        language
    };
    let losses = run(&options);
    // Every third update of the later part is one of steered texts.
    assert!((50..80).contains(&losses.len()), "{losses:?}");
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    assert!(last < 0.88 * first, "from {first} to {last}");

    let model = || {
        let source = ModelSource::Directory(dir.path().to_owned());
        Model::load(&source, &RuntimeOptions::default(), &mut |_, _| {}).unwrap()
    };
    assert_eq!(model().catalog().known_len(), 36);
    let resumed = run(&TrainOptions { resume: Some(78), ..options });
    assert!(resumed[0] < 0.88 * first, "{resumed:?}, first {first}");
}
