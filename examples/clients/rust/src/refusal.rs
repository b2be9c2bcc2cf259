//! Why a call was refused, and whether it was.

use crate::protos::google::rpc::{BadRequest, ErrorInfo, PreconditionFailure, ResourceInfo, RetryInfo, Status};
use crate::{Result, unpack};
use prost::Message;
use prost_types::Any;
use serde_json::{Value, json};
use tonic::Code;

/// Whether it was the connection: a refusal says why in its details, but for `Unavailable` it is final.
pub fn broken(error: &tonic::Status) -> bool {
    match error.code() {
        Code::Unavailable => true,
        Code::Cancelled | Code::Unknown | Code::Internal => error.details().is_empty(),
        _ => false,
    }
}

/// Give a server that is away a moment to come back.
pub async fn pause() {
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
}

/// All that a refused call was told.
pub fn refusal(error: &tonic::Status) -> Result<Value> {
    readable(&Status::decode(error.details())?)
}

/// A status, with each of its details as what it is.
pub fn readable(status: &Status) -> Result<Value> {
    let details = status.details.iter().map(detail).collect::<Result<Vec<Value>>>()?;
    Ok(json!({"code": status.code, "message": status.message, "details": details}))
}

fn detail(packed: &Any) -> Result<Value> {
    let mut told = match packed.type_url.rsplit('.').next() {
        Some("ErrorInfo") => {
            let info: ErrorInfo = unpack(packed)?;
            json!({"reason": info.reason, "domain": info.domain, "metadata": info.metadata})
        }
        Some("BadRequest") => {
            let bad: BadRequest = unpack(packed)?;
            let each = bad.field_violations.iter();
            let violations: Vec<Value> =
                each.map(|broken| json!({"field": broken.field, "description": broken.description})).collect();
            json!({"fieldViolations": violations})
        }
        Some("PreconditionFailure") => {
            let failure: PreconditionFailure = unpack(packed)?;
            let violations = failure.violations.iter().map(
                |failed| json!({"type": failed.r#type, "subject": failed.subject, "description": failed.description}),
            );
            json!({"violations": violations.collect::<Vec<Value>>()})
        }
        Some("ResourceInfo") => {
            let about: ResourceInfo = unpack(packed)?;
            json!({
                "resourceType": about.resource_type, "resourceName": about.resource_name, "owner": about.owner,
                "description": about.description
            })
        }
        Some("RetryInfo") => {
            let delay = unpack::<RetryInfo>(packed)?.retry_delay.unwrap_or_default();
            json!({"retryDelay": format!("{}s", delay.seconds as f64 + f64::from(delay.nanos) / 1e9)})
        }
        _ => json!({}),
    };
    let fields = told.as_object_mut().expect("each of them is an object");
    fields.retain(|_, value| *value != json!("") && *value != json!({}));
    fields.insert("@type".into(), json!(packed.type_url));
    Ok(told)
}
