//! Orders and documents from Rust, with tonic and generated stubs alone.
//!
//!     client ADDRESS STORY KEY [FILE]

mod longrunning;
mod operations;
mod refusal;
mod transfers;

#[allow(dead_code)] // a client uses a part of them
mod protos {
    include!(concat!(env!("OUT_DIR"), "/protos.rs"));
}

use protos::acme::documents::v1::documents_service_client::DocumentsServiceClient;
use protos::acme::orders::v1::orders_service_client::OrdersServiceClient;
use protos::acme::orders::v1::{OrderItem, ProcessOrderRequest};
use protos::google::longrunning::operations_client::OperationsClient;
use protos::longshore::v1::operations_service_client::OperationsServiceClient;
use protos::longshore::v1::transfers_service_client::TransfersServiceClient;
use serde_json::Value;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

struct Client {
    orders: OrdersServiceClient<Channel>,
    documents: DocumentsServiceClient<Channel>,
    operations: OperationsServiceClient<Channel>,
    transfers: TransfersServiceClient<Channel>,
    longrunning: OperationsClient<Channel>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, story, key, file @ ..] = &arguments[..] else { return Err("ADDRESS STORY KEY [FILE]".into()) };
    // A connection that died in silence is noticed by pings alone.
    let (often, patience) = (Duration::from_secs(10), Duration::from_secs(5));
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let channel = endpoint.http2_keep_alive_interval(often).keep_alive_timeout(patience).connect_lazy();
    let mut client = Client {
        orders: OrdersServiceClient::new(channel.clone()),
        documents: DocumentsServiceClient::new(channel.clone()),
        operations: OperationsServiceClient::new(channel.clone()),
        transfers: TransfersServiceClient::new(channel.clone()),
        longrunning: OperationsClient::new(channel),
    };
    match story.as_str() {
        "start" => client.start(key).await,
        "watch" => client.watch(key).await,
        "wait" => client.wait(key).await,
        "signal" => client.signal(key).await,
        "cancel" => client.cancel(key).await,
        "list" => client.list(key).await,
        "failure" => client.failure(key).await,
        "refusals" => client.refusals(key).await,
        "upload" => client.upload(key, &file[0]).await,
        "download" => client.download(key).await,
        "longrunning" => client.result(key).await,
        "longrunning_error" => client.error(key).await,
        "longrunning_cancelled" => client.cancelled(key).await,
        "longrunning_deadline" => client.deadline(key).await,
        _ => Err(format!("there is no story {story}").into()),
    }
}

fn order(key: &str, sku: &str, amount: i64) -> ProcessOrderRequest {
    let item = OrderItem { sku: sku.into(), quantity: 1 };
    ProcessOrderRequest { order_id: key.into(), items: vec![item], amount }
}

fn unpack<M: prost::Message + Default>(packed: &prost_types::Any) -> Result<M> {
    Ok(M::decode(&packed.value[..])?)
}

fn say(told: Value) {
    println!("{told}");
}
