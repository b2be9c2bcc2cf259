package client;

import static client.Client.*;
import static longshore.v1.TransfersServiceOuterClass.*;

import acme.documents.v1.Documents;
import com.google.protobuf.ByteString;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.stub.BlockingClientCall;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.zip.CRC32C;
import longshore.v1.Operation.OperationSnapshot;
import longshore.v1.Operation.UploadGrant;
import longshore.v1.OperationsServiceOuterClass.GetRequest;
import longshore.v1.OperationsServiceOuterClass.WaitRequest;

/** Bytes. */
record Transfers(Client client) {
  private static final int CHUNK = 64 << 10;

  /** From where the server has it, over any number of connections. */
  void upload(String key, String file) throws Exception {
    byte[] data = Files.readAllBytes(Path.of(file));
    String name = client.documents.upload(Documents.UploadRequest.newBuilder().setKey(key).build()).getName();
    String upload = client.operations.get(GetRequest.newBuilder().setName(name).build()).getUpload().getName();
    while (true) {
      try {
        QueryUploadRequest query = QueryUploadRequest.newBuilder().setName(upload).build();
        long offset = client.transfers.queryUpload(query).getCommittedSize();
        say("resumed_at", offset);
        UploadGrant sent = send(upload, data, offset);
        say("committed", sent.getCommittedSize(), "sha256", hex(sent.getDigests().getSha256().toByteArray()));
        break;
      } catch (StatusException error) {
        // Bytes of the broken call may have come after that question: OUT_OF_RANGE, so ask again.
        if (!broken(error) && code(error) != Status.Code.OUT_OF_RANGE) {
          throw error;
        }
        pause();
      }
    }
    OperationSnapshot ended = client.operations.wait(WaitRequest.newBuilder().setName(name).build());
    say("download", ended.getResult().unpack(Documents.FilesUploadResult.class).getDownload());
  }

  /** Sends what there is from an offset on, and commits it. */
  UploadGrant send(String upload, byte[] data, long offset) throws Exception {
    BlockingClientCall<UploadRequest, UploadResponse> call = client.transfers.upload();
    UploadHeader header = UploadHeader.newBuilder().setUpload(upload).setTotalSize(data.length).build();
    boolean open = call.write(UploadRequest.newBuilder().setHeader(header).build());
    for (int at = (int) offset; at < data.length && open; at += CHUNK) {
      ByteString piece = ByteString.copyFrom(data, at, Math.min(CHUNK, data.length - at));
      UploadChunk chunk = UploadChunk.newBuilder().setOffset(at).setData(piece).setCrc32C(crc32c(piece)).build();
      open = call.write(UploadRequest.newBuilder().setChunk(chunk).build());
    }
    if (open) {
      ByteString sha256 = ByteString.copyFrom(sha256(data));
      UploadCommit commit = UploadCommit.newBuilder().setTotalSize(data.length).setSha256(sha256).build();
      call.write(UploadRequest.newBuilder().setCommit(commit).build());
    }
    call.halfClose();
    return call.read().getUpload();
  }

  /** From where the caller has it: of the same object. */
  void download(String key) throws Exception {
    ByteArrayOutputStream data = new ByteArrayOutputStream();
    DownloadRequest.Builder request = DownloadRequest.newBuilder().setName(key);
    while (true) {
      try {
        BlockingClientCall<?, DownloadResponse> call = client.transfers.download(request.build());
        for (DownloadResponse message = call.read(); message != null; message = call.read()) {
          if (message.hasHeader()) {
            request.setIfSha256(message.getHeader().getDownload().getDigests().getSha256());
          }
          if (message.hasChunk()) {
            ByteString piece = message.getChunk().getData();
            if (crc32c(piece) != message.getChunk().getCrc32C()) {
              throw new IOException("a chunk is not what was sent");
            }
            if (data.size() == 0) {
              say("begun", piece.size());
            }
            piece.writeTo(data);
          }
        }
        break;
      } catch (StatusException error) {
        if (!broken(error)) {
          throw error;
        }
        request.setOffset(data.size());
        say("resumed_at", request.getOffset());
        pause();
      }
    }
    byte[] sha256 = sha256(data.toByteArray());
    if (!MessageDigest.isEqual(sha256, request.getIfSha256().toByteArray())) {
      throw new IOException("the bytes are not those that were stored");
    }
    say("size", data.size(), "sha256", hex(sha256));
  }

  private static int crc32c(ByteString data) {
    CRC32C sum = new CRC32C();
    sum.update(data.asReadOnlyByteBuffer());
    return (int) sum.getValue();
  }

  private static byte[] sha256(byte[] data) throws Exception {
    return MessageDigest.getInstance("SHA-256").digest(data);
  }

  private static String hex(byte[] data) {
    return HexFormat.of().formatHex(data);
  }
}
