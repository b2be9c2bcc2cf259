//! Compiles the exported protos with protoc, or whatever `PROTOC` names.

fn main() -> std::io::Result<()> {
    let files = [
        "protos/acme/documents/v1/documents.proto",
        "protos/acme/orders/v1/orders.proto",
        "protos/google/longrunning/operations.proto",
        "protos/google/rpc/error_details.proto",
        "protos/longshore/v1/operations_service.proto",
        "protos/longshore/v1/transfers_service.proto",
    ];
    tonic_prost_build::configure().build_server(false).include_file("protos.rs").compile_protos(&files, &["protos"])
}
