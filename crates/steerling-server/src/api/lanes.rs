//! The generations of one request: admitted together, so that they share the batch and the prompt's blocks.

use std::sync::Arc;

use futures::future::try_join_all;
use steerling::steer::{Steering, SteeringSpec};

use super::AppState;
use super::generate::request::{Head, Prepared};
use crate::engine::{Finished, Message, Receiver, Ticket, WorkKind};
use crate::error::{ApiError, Code};
use crate::policy;

/// A generation under way.
pub(crate) struct Lane {
    /// Names it in the events of a stream that has several.
    pub(crate) name: Option<String>,
    pub(crate) head: Head,
    pub(crate) receiver: Receiver,
}

/// A generation that went well.
pub(crate) struct Ended {
    pub(crate) head: Head,
    pub(crate) finished: Box<Finished>,
}

/// All generations of a request, with what they were steered by.
pub(crate) struct Opened {
    pub(crate) lanes: Vec<Lane>,
    pub(crate) steerings: Vec<Option<Arc<Steering>>>,
}

/// Takes slots for all, resolves their steering, hands them in, and waits until the first has left the queue:
/// whatever is rejected is rejected before anything is sent.
pub(crate) async fn open(
    state: &AppState,
    ticket: &Ticket,
    mut wanted: Vec<(Option<String>, Prepared)>,
) -> Result<Opened, ApiError> {
    ticket.extend_to(wanted.len())?;
    govern(state, ticket, &mut wanted).await?;
    let specs = wanted.iter().map(|(_, prepared)| prepared.recipe.as_ref().map(|recipe| recipe.spec())).collect();
    let steerings = resolve(ticket, specs).await?;
    let generations =
        wanted.iter().zip(&steerings).map(|((_, prepared), steering)| prepared.generation(steering.clone()));
    let generations = generations.collect::<Result<Vec<_>, _>>()?;
    let mut lanes = Vec::with_capacity(wanted.len());
    let line = state.audit.as_ref().map(|audit| audit.line(&wanted, None));
    for ((name, prepared), generation) in wanted.into_iter().zip(generations) {
        let receiver = ticket.submit(generation, prepared.priority)?;
        lanes.push(Lane { name, head: prepared.head, receiver });
    }
    if let Some((audit, line)) = state.audit.as_ref().zip(line) {
        audit.record(line);
    }
    if let Some(first) = lanes.first_mut() {
        match first.receiver.recv().await {
            Some(Message::Failed(failure)) => return Err(failure.into()),
            None => return Err(ApiError::internal()),
            Some(_) => {}
        }
    }
    Ok(Opened { lanes, steerings })
}

/// Applies the server's policies; what they refuse is noted in the audit log.
async fn govern(state: &AppState, ticket: &Ticket, wanted: &mut [(Option<String>, Prepared)]) -> Result<(), ApiError> {
    let governed = policy::enforce(&state.options.guard.policies, ticket, wanted).await;
    if let (Some(audit), Err(error)) = (&state.audit, &governed)
        && error.code == Code::RefusedByPolicy
    {
        audit.record(audit.line(wanted, Some(error)));
    }
    governed
}

/// Resolves steerings against the model's weights, one a slice.
pub(crate) async fn resolve(
    ticket: &Ticket,
    specs: Vec<Option<SteeringSpec>>,
) -> Result<Vec<Option<Arc<Steering>>>, ApiError> {
    if specs.iter().all(Option::is_none) {
        return Ok(specs.iter().map(|_| None).collect());
    }
    let mut resolved = Vec::with_capacity(specs.len());
    let work = ticket.run(WorkKind::Steer, specs.len(), move |runtime| {
        let Some(spec) = specs.get(resolved.len()) else { return Ok(Some(std::mem::take(&mut resolved))) };
        let steering = spec.as_ref().map(|spec| runtime.model().steering(spec)).transpose()?;
        resolved.push(steering.map(Arc::new));
        Ok(None)
    })?;
    work.await.map_err(|failure| ApiError::from(failure).or_param("steering"))
}

/// Waits for the ends of all.
pub(crate) async fn fold(lanes: Vec<Lane>) -> Result<Vec<Ended>, ApiError> {
    try_join_all(lanes.into_iter().map(finish)).await
}

async fn finish(Lane { head, mut receiver, .. }: Lane) -> Result<Ended, ApiError> {
    loop {
        match receiver.recv().await {
            Some(Message::Started | Message::Update(_)) => {}
            Some(Message::Done(finished)) => return Ok(Ended { head, finished }),
            Some(Message::Failed(failure)) => return Err(failure.into()),
            None => return Err(ApiError::internal()),
        }
    }
}
