//! Start, follow, steer.

use crate::protos::acme::documents::v1::UploadRequest;
use crate::protos::acme::orders::v1::{ApproveOrder, ProcessOrderProgress, ProcessOrderRequest, ProcessOrderResult};
use crate::protos::longshore::v1::operation_event::Event;
use crate::protos::longshore::v1::operation_snapshot::Outcome;
use crate::protos::longshore::v1::watch_response::Message;
use crate::protos::longshore::v1::*;
use crate::refusal::{broken, pause, readable, refusal};
use crate::{Client, Result, order, say, unpack};
use serde_json::json;
use tonic::Request;

impl Client {
    /// The contract's own method starts. Whoever repeats it under its request id starts nothing twice.
    pub async fn start(&mut self, key: &str) -> Result {
        for _ in 0..2 {
            let mut request = Request::new(order(key, "tea", 1200));
            request.metadata_mut().insert("longshore-request-id", format!("checkout-{key}").parse()?);
            request.metadata_mut().insert("longshore-label-tenant", "acme".parse()?);
            let answer = self.orders.process(request).await?;
            let disposition = answer.metadata().get("longshore-disposition").map(|value| value.to_str());
            say(json!({"name": answer.get_ref().name, "disposition": disposition.transpose()?}));
        }
        Ok(())
    }

    /// Every event once, in order, over any number of connections.
    pub async fn watch(&mut self, key: &str) -> Result {
        let name = self.place(order(key, "tea", 1200)).await?;
        let mut request = WatchRequest { name, after_sequence: Some(0), ..Default::default() };
        while let Err(error) = self.follow(&mut request).await {
            match error.downcast_ref() {
                Some(status) if broken(status) => say(json!({"resumed_after": request.after_sequence})),
                _ => return Err(error),
            }
            pause().await;
        }
        Ok(()) // the stream ends well after the last event, and only then
    }

    async fn follow(&mut self, request: &mut WatchRequest) -> Result {
        let mut stream = self.operations.watch(request.clone()).await?.into_inner();
        while let Some(response) = stream.message().await? {
            if let Some(Message::Event(event)) = response.message {
                request.after_sequence = Some(event.sequence);
                show(&event)?;
            } // else a heartbeat
        }
        Ok(())
    }

    /// For five seconds, then to the end; `timeout` is the bound of the call, not of the operation.
    pub async fn wait(&mut self, key: &str) -> Result {
        let name = self.place(order(key, "tea", 1200)).await?;
        let soon = prost_types::Duration { seconds: 5, nanos: 0 };
        let request = WaitRequest { name: name.clone(), timeout: Some(soon) };
        end(self.operations.wait(request).await?.get_ref())?;
        self.finish(name).await
    }

    /// A signal that is repeated under its id is the same signal.
    pub async fn signal(&mut self, key: &str) -> Result {
        let name = self.place(order(key, "restricted-tea", 1200)).await?;
        let payload = prost_types::Any {
            type_url: "type.googleapis.com/acme.orders.v1.ApproveOrder".into(),
            value: prost::Message::encode_to_vec(&ApproveOrder { by: "Kim".into() }),
        };
        let (signal, signal_id) = ("approve".into(), "approval-1".into());
        let request = SignalRequest { name: name.clone(), signal, payload: Some(payload), signal_id };
        for _ in 0..2 {
            let answer = self.operations.signal(request.clone()).await?.into_inner();
            say(json!({"number": answer.number, "duplicate": answer.duplicate}));
        }
        self.finish(name).await
    }

    /// Asking twice is asking once.
    pub async fn cancel(&mut self, key: &str) -> Result {
        let name = self.place(order(key, "tea", 1200)).await?;
        for _ in 0..2 {
            let request = CancelRequest { name: name.clone(), reason: "changed my mind".into() };
            self.operations.cancel(request).await?;
        }
        self.finish(name).await
    }

    /// Page by page, the newest first.
    pub async fn list(&mut self, key: &str) -> Result {
        let filter = format!("labels.tenant=\"{key}\"");
        let mut request = ListRequest { filter, page_size: 2, ..Default::default() };
        loop {
            let page = self.operations.list(request.clone()).await?.into_inner();
            say(json!({"names": page.operations.into_iter().map(|found| found.name).collect::<Vec<_>>()}));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(());
            }
        }
    }

    /// What an operation failed for is a status, as a refused call has one.
    pub async fn failure(&mut self, key: &str) -> Result {
        let name = self.place(order(key, "tea", 1_000_000)).await?;
        self.finish(name).await
    }

    /// Calls that are refused, each with all that it is told.
    pub async fn refusals(&mut self, key: &str) -> Result {
        let once = |key: &str, id: &str| -> Result<Request<ProcessOrderRequest>> {
            let mut request = Request::new(order(key, "tea", 1200));
            request.metadata_mut().insert("longshore-request-id", id.parse()?);
            Ok(request)
        };
        let name = self.orders.process(once(key, key)?).await?.into_inner().name;
        let document = UploadRequest { key: key.into(), ..Default::default() };
        let stored = self.documents.upload(document).await?.into_inner().name;
        let upload = self.upload_of(stored).await?;
        let nobody = GetRequest { name: "operations/nobody".into(), ..Default::default() };

        let refused = |call: &str, error: Option<tonic::Status>| -> Result {
            let error = error.ok_or("it was not refused")?;
            say(json!({"call": call, "refusal": refusal(&error)?}));
            Ok(())
        };
        refused("invalid", self.orders.process(order("", "tea", 1200)).await.err())?;
        refused("unknown", self.operations.get(nobody).await.err())?;
        refused("reused", self.orders.process(once(&format!("{key}-2"), key)?).await.err())?;
        refused("running", self.operations.delete(DeleteRequest { name }).await.err())?;
        refused("offset", self.send(upload, b"tea", 1).await.err())?;
        refused("full", self.orders.process(order(&format!("{key}-3"), "tea", 1200)).await.err())
    }

    pub async fn place(&mut self, order: ProcessOrderRequest) -> Result<String> {
        Ok(self.orders.process(order).await?.into_inner().name)
    }

    async fn finish(&mut self, name: String) -> Result {
        end(self.operations.wait(WaitRequest { name, timeout: None }).await?.get_ref())
    }
}

/// An event, with what it holds in the types of the contract.
fn show(event: &OperationEvent) -> Result {
    let mut told = json!({"sequence": event.sequence});
    match event.event.as_ref().ok_or("an event of a later version")? {
        Event::Progress(progress) => {
            let value: ProcessOrderProgress = unpack(progress.value.as_ref().ok_or("no progress")?)?;
            (told["event"], told["step"]) = (json!("progress"), json!(value.step));
        }
        Event::Completed(completed) => {
            let result: ProcessOrderResult = unpack(completed.result.as_ref().ok_or("no result")?)?;
            (told["event"], told["status"]) = (json!("completed"), json!(result.status));
        }
        Event::Accepted(_) => told["event"] = json!("accepted"),
        Event::Started(_) => told["event"] = json!("started"),
        Event::AttemptFailed(_) => told["event"] = json!("attempt_failed"),
        other => told["event"] = json!(format!("{other:?}")),
    }
    say(told);
    Ok(())
}

/// How an operation stands: with its result, with its error, or with neither.
fn end(operation: &OperationSnapshot) -> Result {
    let mut told = json!({"state": operation.state().as_str_name()});
    match &operation.outcome {
        Some(Outcome::Result(result)) => told["status"] = json!(unpack::<ProcessOrderResult>(result)?.status),
        Some(Outcome::Error(error)) => told["error"] = readable(error)?,
        None => {}
    }
    say(told);
    Ok(())
}
