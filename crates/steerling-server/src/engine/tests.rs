//! The engine with a small recorded model: permits, turns and room, told apart by gates and counts, not by clocks.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use steerling::embed::{EmbedJob, Pooling};
use steerling::{
    Canvas, Denoiser, DeviceChoice, GenerateParams, Generation, ModelSource, Result, Runtime, RuntimeOptions,
};

use super::*;
use crate::metrics::Metrics;

/// Pages that a sequence of the whole context needs.
const CONTEXT_PAGES: usize = 32;

fn options() -> EngineOptions {
    EngineOptions {
        max_batch: 4,
        max_queue: 60,
        max_active: None,
        max_rows: 8192,
        max_faults: 0,
        stall: Duration::from_secs(60),
    }
}

/// The recorded model with so many pages.
fn nano(pages: usize) -> Result<Loaded<Runtime>> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../steerling/tests/goldens/nano");
    let load = |kv_bytes| {
        let options = RuntimeOptions { kv_bytes, device: DeviceChoice::Cpu, ..RuntimeOptions::default() };
        Runtime::load(&ModelSource::Directory(directory.into()), &options, &mut |_, _| ())
    };
    let page_bytes = load(32 << 20)?.limits().page_bytes;
    Ok(load(page_bytes * pages as u64)?.into())
}

async fn engine(options: EngineOptions, pages: usize) -> EngineHandle {
    let engine = EngineHandle::spawn(options, Arc::new(Metrics::new([])), move || nano(pages)).expect("threads");
    engine.phase().wait_for(|phase| *phase == Phase::Ready).await.expect("the model is loaded");
    engine
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn in_flight(engine: &EngineHandle) -> usize {
    engine.shared.in_flight()
}

#[tokio::test]
async fn slots_are_held_until_work_and_answer_have_dropped_them() {
    let engine = engine(EngineOptions { max_batch: 1, max_queue: 0, ..options() }, 64).await;
    let ticket = engine.admit(later()).expect("a slot");
    let overloaded = |engine: &EngineHandle| matches!(engine.admit(later()), Err(SubmitError::Overloaded { .. }));
    assert!(overloaded(&engine));
    let (open, gate) = mpsc::channel::<()>();
    let work = ticket.run(WorkKind::Embed, 1, move |_| Ok(gate.recv().ok())).expect("the worker is there");
    // The client has left: what is computed holds the slot all the same.
    drop((ticket, work));
    assert!(overloaded(&engine));
    open.send(()).expect("the worker waits");
    while in_flight(&engine) > 0 {
        tokio::task::yield_now().await;
    }
    let ticket = engine.admit(later()).expect("the slot is free again");
    ticket.run(WorkKind::Embed, 1, |_| Ok(Some(()))).expect("the worker is there").await.expect("an answer");
    let body = ticket.into_permit();
    assert!(overloaded(&engine), "the answer is still being sent");
    drop(body);
    assert_eq!(in_flight(&engine), 0);
}

#[tokio::test]
async fn the_slot_is_free_once_the_answer_is_read() {
    let engine = engine(EngineOptions { max_batch: 1, max_queue: 0, ..options() }, 64).await;
    for _ in 0..100 {
        let ticket = engine.admit(later()).expect("the slot is free");
        let answer = ticket.run(WorkKind::Embed, 1, small_text()).expect("the worker is there");
        drop(ticket);
        answer.await.expect("an answer");
        assert_eq!(in_flight(&engine), 0, "the worker may not have dropped the task yet, but has released its slot");
    }
}

#[tokio::test]
async fn a_request_of_several_generations_gets_all_its_slots_or_none() {
    let engine = engine(EngineOptions { max_batch: 2, max_queue: 2, ..options() }, 64).await;
    let (one, other) = (engine.admit(later()).expect("a slot"), engine.admit(later()).expect("a slot"));
    assert!(one.extend_to(4).is_err());
    assert_eq!(in_flight(&engine), 2);
    one.extend_to(3).expect("three slots");
    one.extend_to(2).expect("it has them");
    assert_eq!(in_flight(&engine), 4);
    drop((one, other));
    assert_eq!(in_flight(&engine), 0);
}

#[tokio::test]
async fn what_is_dropped_before_its_planning_begins_is_never_planned() {
    let engine = engine(options(), 64).await;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let taken = engine.shared.planning.clone().acquire_many_owned(cores as u32).await.expect("open");
    let ticket = engine.admit(later()).expect("a slot");
    let planned = Arc::new(AtomicBool::new(false));
    let work = {
        let planned = planned.clone();
        move || planned.store(true, SeqCst)
    };
    // The client leaves while all threads for planning are taken.
    let mut waiting = Box::pin(ticket.plan(work));
    assert!(futures::poll!(&mut waiting).is_pending());
    drop(waiting);
    let late = engine.admit(Instant::now() + Duration::from_millis(5)).expect("a slot");
    assert!(matches!(late.plan(|| ()).await, Err(Failure::Deadline)));
    drop(taken);
    // Whatever was handed over before this has begun.
    let all = engine.shared.planning.clone().acquire_many_owned(cores as u32).await.expect("open");
    drop(all);
    ticket.plan(|| ()).await.expect("planned");
    assert!(!planned.load(SeqCst));
}

#[tokio::test]
async fn planning_that_has_begun_keeps_the_slot_of_a_client_that_has_left() {
    let engine = engine(options(), 64).await;
    let ticket = engine.admit(later()).expect("a slot");
    let (open, gate) = mpsc::channel::<()>();
    let (begun, has_begun) = mpsc::channel::<()>();
    let mut planning = Box::pin(ticket.plan(move || {
        begun.send(()).expect("the test waits");
        gate.recv()
    }));
    assert!(futures::poll!(&mut planning).is_pending());
    tokio::task::spawn_blocking(move || has_begun.recv()).await.expect("no panic").expect("it has begun");
    drop(planning);
    drop(ticket);
    assert_eq!(in_flight(&engine), 1);
    open.send(()).expect("planning goes on");
    while in_flight(&engine) > 0 {
        tokio::task::yield_now().await;
    }
}

/// Work of one text of one token.
fn small_text() -> impl FnMut(&mut Runtime) -> Result<Option<()>> + Send {
    let mut job: Option<EmbedJob> = None;
    move |runtime| {
        let job = match &mut job {
            Some(job) => job,
            none => none.insert(EmbedJob::new(vec![vec![5]], Pooling::Mean)?),
        };
        Ok(job.advance(runtime)?.map(|_| ()))
    }
}

#[tokio::test]
async fn small_work_beside_49_large_tasks_waits_for_a_few_slices() {
    let engine = engine(options(), 64).await;
    let slices = Arc::new(AtomicUsize::new(0));
    let (open, gate) = mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let is_over = Arc::new(AtomicBool::new(false));
    let large = || {
        let (slices, gate, is_over) = (slices.clone(), gate.clone(), is_over.clone());
        move |_: &mut Runtime| {
            // The first slice of all lasts until everything has been handed in.
            if slices.fetch_add(1, SeqCst) == 0 {
                _ = gate.lock().expect("one waits").recv();
            }
            Ok(is_over.load(SeqCst).then_some(()))
        }
    };
    let tickets: Vec<Ticket> = (0..49).map(|_| engine.admit(later()).expect("a slot")).collect();
    let tasks: Vec<_> =
        tickets.iter().map(|t| t.run(WorkKind::Attribute, 64 * 512 * 70, large()).expect("the worker")).collect();
    let ticket = engine.admit(later()).expect("a slot");
    let counted = {
        let (slices, is_over) = (slices.clone(), is_over.clone());
        let mut work = small_text();
        move |runtime: &mut Runtime| {
            let found = work(runtime)?;
            is_over.fetch_or(found.is_some(), SeqCst);
            Ok(found.map(|()| slices.load(SeqCst)))
        }
    };
    let small = ticket.run(WorkKind::Embed, 1, counted).expect("the worker");
    open.send(()).expect("the first slice waits");
    let waited = small.await.expect("an answer");
    assert!(waited <= 4, "{waited} slices of large tasks, the first included");
    for task in tasks {
        task.await.expect("an answer");
    }
}

#[tokio::test]
async fn a_task_that_needs_all_pages_has_its_turn_under_an_endless_stream_of_generations() {
    let engine = engine(options(), CONTEXT_PAGES).await;
    let model = engine.model().expect("loaded");
    let context = model.limits.canvas.context;
    assert_eq!(model.limits.pages, CONTEXT_PAGES);
    let generate = |seed: u64| {
        let params = GenerateParams { max_new_tokens: 24, seed, ..GenerateParams::default() };
        let canvas = Canvas::new(&[1, 2, 3], params, &model.limits.canvas).expect("a canvas");
        let ticket = engine.admit(later()).expect("a slot");
        let generation = Generation::new(canvas, &model.tokenizer);
        let mut receiver = ticket.submit(generation, Priority::Normal).expect("it fits");
        async move {
            let _ticket = ticket;
            while let Some(message) = receiver.recv().await {
                assert!(!matches!(message, Message::Failed(_)), "{message:?}");
            }
        }
    };
    // Some always wait: whenever one ends another takes its pages in the same round.
    let mut running: futures::stream::FuturesUnordered<_> = (0..8).map(generate).collect();
    let ticket = engine.admit(later()).expect("a slot");
    let mut job = EmbedJob::new(vec![vec![7; context]], Pooling::Mean).expect("a text");
    let work = move |runtime: &mut Runtime| Ok(job.advance(runtime)?.map(|_| ()));
    let mut task = Box::pin(ticket.run(WorkKind::Embed, context, work).expect("the worker"));
    let mut ended = 0;
    loop {
        tokio::select! {
            found = &mut task => break found.expect("an answer"),
            _ = futures::StreamExt::next(&mut running) => {
                ended += 1;
                assert!(ended < 200, "it starves");
                running.push(generate(ended));
            }
        }
    }
    drop(ticket);
    while futures::StreamExt::next(&mut running).await.is_some() {}
}

#[tokio::test]
async fn work_that_follows_planning_is_done_while_the_server_drains() {
    let engine = engine(options(), 64).await;
    let ticket = engine.admit(later()).expect("a slot");
    let drained = tokio::spawn({
        let engine = engine.clone();
        async move { engine.drain(Duration::from_secs(30)).await }
    });
    while !engine.is_draining() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(engine.admit(later()), Err(SubmitError::ShuttingDown)));
    ticket.plan(|| ()).await.expect("planned");
    ticket.run(WorkKind::Embed, 1, small_text()).expect("the worker waits for it").await.expect("an answer");
    drop(ticket);
    drained.await.expect("it ends once nothing may follow");
}
