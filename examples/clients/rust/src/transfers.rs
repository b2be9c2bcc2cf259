//! Bytes.

use crate::protos::acme::documents::v1::{FilesUploadResult, UploadRequest as Document};
use crate::protos::longshore::v1::operation_snapshot::Outcome;
use crate::protos::longshore::v1::{
    DownloadRequest, GetRequest, QueryUploadRequest, UploadChunk, UploadCommit, UploadGrant, UploadHeader,
    UploadRequest, WaitRequest, download_response, upload_request,
};
use crate::refusal::{broken, pause};
use crate::{Client, Result, say, unpack};
use crc32c::crc32c;
use serde_json::json;
use sha2::{Digest, Sha256};
use tonic::{Code, Status};

const CHUNK: usize = 64 << 10;

impl Client {
    /// From where the server has it, over any number of connections.
    pub async fn upload(&mut self, key: &str, file: &str) -> Result {
        let data = std::fs::read(file)?;
        let document = Document { key: key.into(), ..Default::default() };
        let name = self.documents.upload(document).await?.into_inner().name;
        let upload = self.upload_of(name.clone()).await?;
        let sent = loop {
            match self.go_on(&upload, &data).await {
                Ok(sent) => break sent,
                // Bytes of a broken call may have come after it was asked for them: OutOfRange, so ask again.
                Err(error) if broken(&error) || error.code() == Code::OutOfRange => pause().await,
                Err(error) => return Err(error.into()),
            }
        };
        let sha256 = sent.digests.unwrap_or_default().sha256;
        say(json!({"committed": sent.committed_size, "sha256": hex(&sha256)}));
        let ended = self.operations.wait(WaitRequest { name, timeout: None }).await?.into_inner();
        let Some(Outcome::Result(result)) = ended.outcome else { return Err("it has no result".into()) };
        say(json!({"download": unpack::<FilesUploadResult>(&result)?.download}));
        Ok(())
    }

    async fn go_on(&mut self, upload: &str, data: &[u8]) -> Result<UploadGrant, Status> {
        let query = QueryUploadRequest { name: upload.into() };
        let offset = self.transfers.query_upload(query).await?.into_inner().committed_size;
        say(json!({"resumed_at": offset}));
        self.send(upload.into(), data, offset as usize).await
    }

    /// Sends what there is from an offset on, and commits it.
    pub async fn send(&mut self, upload: String, data: &[u8], offset: usize) -> Result<UploadGrant, Status> {
        use upload_request::Message::{Chunk, Commit, Header};
        let total_size = data.len() as i64;
        let mut messages = vec![Header(UploadHeader { upload, part: 0, total_size: Some(total_size) })];
        for (number, piece) in data[offset..].chunks(CHUNK).enumerate() {
            let offset = (offset + number * CHUNK) as i64;
            messages.push(Chunk(UploadChunk { offset, data: piece.to_vec(), crc32c: Some(crc32c(piece)) }));
        }
        messages.push(Commit(UploadCommit { total_size, sha256: Sha256::digest(data).to_vec() }));
        let requests = messages.into_iter().map(|message| UploadRequest { message: Some(message) });
        let answer = self.transfers.upload(tokio_stream::iter(requests.collect::<Vec<_>>())).await?;
        Ok(answer.into_inner().upload.unwrap_or_default())
    }

    /// From where the caller has it: of the same object.
    pub async fn download(&mut self, key: &str) -> Result {
        let mut data = Vec::new();
        let mut request = DownloadRequest { name: key.into(), ..Default::default() };
        while let Err(error) = self.fetch(&mut request, &mut data).await {
            match error.downcast_ref() {
                Some(status) if broken(status) => request.offset = data.len() as i64,
                _ => return Err(error),
            }
            say(json!({"resumed_at": request.offset}));
            pause().await;
        }
        let sha256 = Sha256::digest(&data).to_vec();
        if sha256 != request.if_sha256 {
            return Err("the bytes are not those that were stored".into());
        }
        say(json!({"size": data.len(), "sha256": hex(&sha256)}));
        Ok(())
    }

    async fn fetch(&mut self, request: &mut DownloadRequest, data: &mut Vec<u8>) -> Result {
        use download_response::Message::{Chunk, End, Header};
        let mut stream = self.transfers.download(request.clone()).await?.into_inner();
        while let Some(response) = stream.message().await? {
            match response.message {
                Some(Header(header)) => {
                    let digests = header.download.unwrap_or_default().digests;
                    request.if_sha256 = digests.unwrap_or_default().sha256;
                }
                Some(Chunk(chunk)) if crc32c(&chunk.data) == chunk.crc32c => {
                    if data.is_empty() {
                        say(json!({"begun": chunk.data.len()}));
                    }
                    data.extend(chunk.data);
                }
                Some(Chunk(_)) => return Err("a chunk is not what was sent".into()),
                Some(End(_)) | None => {}
            }
        }
        Ok(())
    }

    pub async fn upload_of(&mut self, name: String) -> Result<String> {
        let found = self.operations.get(GetRequest { name, ..Default::default() }).await?.into_inner();
        Ok(found.upload.ok_or("its contract declares no bytes")?.name)
    }
}

fn hex(data: &[u8]) -> String {
    data.iter().map(|byte| format!("{byte:02x}")).collect()
}
