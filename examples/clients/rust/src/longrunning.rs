//! google.longrunning, by the generated stub: WaitOperation answers at the end, nobody has to ask again and again.

use crate::protos::acme::orders::v1::{ProcessOrderProgress, ProcessOrderResult};
use crate::protos::google::longrunning::operation::Result as Outcome;
use crate::protos::google::longrunning::{
    CancelOperationRequest, GetOperationRequest, Operation, WaitOperationRequest,
};
use crate::refusal::readable;
use crate::{Client, Result, order, say, unpack};
use serde_json::json;
use std::time::Duration;
use tonic::{Code, Status};

impl Client {
    /// Its result and its metadata, in their types.
    pub async fn result(&mut self, key: &str) -> Result {
        let name = self.place(order(key, "tea", 1200)).await?;
        let done = self.finished(name).await?;
        let Some(Outcome::Response(response)) = done.result else { return Err("it has no result".into()) };
        let progress: ProcessOrderProgress = unpack(&done.metadata.unwrap_or_default())?;
        say(json!({"step": progress.step, "status": unpack::<ProcessOrderResult>(&response)?.status}));
        Ok(())
    }

    /// The error of an operation that failed.
    pub async fn error(&mut self, key: &str) -> Result {
        let name = self.place(order(key, "tea", 1_000_000)).await?;
        let Some(Outcome::Error(error)) = self.finished(name).await?.result else { return Err("no error".into()) };
        say(json!({"code": error.code, "reason": readable(&error)?["details"][0]["reason"]}));
        Ok(())
    }

    /// A cancelled operation, and that it is known as such.
    pub async fn cancelled(&mut self, key: &str) -> Result {
        let name = self.place(order(key, "tea", 1200)).await?;
        self.longrunning.cancel_operation(CancelOperationRequest { name: name.clone() }).await?;
        let result = self.finished(name).await?.result;
        let cancelled = matches!(result, Some(Outcome::Error(error)) if error.code == Code::Cancelled as i32);
        say(json!({"cancelled": cancelled}));
        Ok(())
    }

    /// The time of the caller is up; the operation goes on, and is found again by its name.
    pub async fn deadline(&mut self, key: &str) -> Result {
        let name = self.place(order(key, "tea", 1200)).await?;
        let late = tokio::time::timeout(Duration::from_millis(500), self.finished(name.clone())).await.is_err();
        let found = self.longrunning.get_operation(GetOperationRequest { name }).await?;
        say(json!({"deadline": late, "done": found.get_ref().done}));
        Ok(())
    }

    async fn finished(&mut self, name: String) -> Result<Operation, Status> {
        Ok(self.longrunning.wait_operation(WaitOperationRequest { name, timeout: None }).await?.into_inner())
    }
}
