//! Envoy's ext_proc service, for two filters of which Envoy's configuration has one each: one watches responses go by
//! and settles what they used (`metering`), the other asks streams for their usage (`asking`).

mod asking;
mod message;
mod metering;

use std::sync::Arc;

use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use envoy_types::pb::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::envoy::decode::Room;
use crate::envoy::settling::Settler;
use crate::telemetry::Metrics;

/// Streams at once: one for each response on its way, a few kilobytes of state each. Responses beyond it are not
/// watched, and their reservations are charged in full when their time is up.
const STREAMS_MAX: usize = 16_384;
/// The largest message. Envoy sends bodies in pieces of up to a megabyte, and whole ones only up to the size that may be asked for
/// their usage.
const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Answers that wait for Envoy. It takes each before it sends the next message.
const ANSWERS_MAX: usize = 1;

/// What all that unpack responses may hold together. A response beyond it is metered as one that was cut off there.
const UNPACKING_BYTES_MAX: u64 = 512 << 20;

/// The ext_proc service.
#[derive(Clone)]
pub struct Processor {
    settler: Settler,
    metrics: Metrics,
    streams: Arc<Semaphore>,
    room: Room,
    ended: CancellationToken,
}

type Answers = mpsc::Sender<Result<ProcessingResponse, Status>>;

/// A service that settles by this settler. When `ended` is cancelled, it lets go of every stream at once: reservations of responses that
/// are still on their way stay open for the next start.
#[must_use]
pub fn service(
    settler: Settler,
    metrics: Metrics,
    ended: CancellationToken,
) -> ExternalProcessorServer<Processor> {
    let streams = Arc::new(Semaphore::new(STREAMS_MAX));
    let room = Room::of(UNPACKING_BYTES_MAX);
    let processor = Processor { settler, metrics, streams, room, ended };
    ExternalProcessorServer::new(processor).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

#[tonic::async_trait]
impl ExternalProcessor for Processor {
    type ProcessStream = ReceiverStream<Result<ProcessingResponse, Status>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let Ok(permit) = Arc::clone(&self.streams).try_acquire_owned() else {
            self.metrics.unwatched_response();
            return Err(Status::resource_exhausted("too many responses are on their way"));
        };
        let (answers, stream) = mpsc::channel(ANSWERS_MAX);
        // A task of its own: it sees the end of its stream whichever side ends it first.
        tokio::spawn(self.clone().attend(request.into_inner(), answers, permit));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Processor {
    /// Follows one stream to its end. Dropping `answers` ends it, and Envoy frees what it keeps for it.
    async fn attend(
        self,
        mut messages: Streaming<ProcessingRequest>,
        answers: Answers,
        _permit: OwnedSemaphorePermit,
    ) {
        let Some(first) = next(&mut messages).await else { return };
        if first.observability_mode {
            self.watch(first, messages, answers).await;
        } else {
            asking::ask(first, messages, answers).await;
        }
    }
}

/// The next message. However the stream ended, it ended: Envoy cuts off a stream that it has no more use for, so that an error
/// tells nothing.
async fn next(messages: &mut Streaming<ProcessingRequest>) -> Option<ProcessingRequest> {
    messages.message().await.ok().flatten()
}
