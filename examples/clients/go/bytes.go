package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	documents "client/gen/acme/documents/v1"
	longshore "client/gen/longshore/v1"
)

const chunk = 64 << 10

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// From where the server has it, over any number of connections.
func (c *Client) upload(key, file string) {
	data, err := os.ReadFile(file)
	check(err)
	started, err := c.documents.Upload(background, &documents.UploadRequest{Key: key})
	check(err)
	found, err := c.operations.Get(background, &longshore.GetRequest{Name: started.Name})
	check(err)
	var sent *longshore.UploadGrant
	for sent == nil {
		have, err := c.transfers.QueryUpload(background,
			&longshore.QueryUploadRequest{Name: found.Upload.Name}, grpc.WaitForReady(true))
		if err == nil {
			say(map[string]any{"resumed_at": have.CommittedSize})
			sent, err = c.send(found.Upload.Name, data, have.CommittedSize)
		}
		// Bytes of the broken call may have come after that question: OutOfRange, so ask again.
		if err != nil && !broken(err) && status.Code(err) != codes.OutOfRange {
			check(err)
		} else if err != nil {
			time.Sleep(pause)
		}
	}
	say(map[string]any{"committed": sent.CommittedSize, "sha256": hex.EncodeToString(sent.Digests.Sha256)})
	ended, err := c.operations.Wait(background, &longshore.WaitRequest{Name: started.Name})
	check(err)
	say(map[string]any{"download": unpack[*documents.FilesUploadResult](ended.GetResult()).Download})
}

// send sends what there is from an offset on, and commits it. Why a Send fails is what the answer says.
func (c *Client) send(upload string, data []byte, offset int64) (*longshore.UploadGrant, error) {
	stream, err := c.transfers.Upload(background, grpc.WaitForReady(true))
	if err != nil {
		return nil, err
	}
	size, sum := int64(len(data)), sha256.Sum256(data)
	header := &longshore.UploadHeader{Upload: upload, TotalSize: &size}
	err = stream.Send(&longshore.UploadRequest{Message: &longshore.UploadRequest_Header{Header: header}})
	for at := offset; at < size && err == nil; at += chunk {
		piece := data[at:min(at+chunk, size)]
		made := &longshore.UploadChunk{Offset: at, Data: piece, Crc32C: proto.Uint32(crc32.Checksum(piece, castagnoli))}
		err = stream.Send(&longshore.UploadRequest{Message: &longshore.UploadRequest_Chunk{Chunk: made}})
	}
	if err == nil {
		commit := &longshore.UploadCommit{TotalSize: size, Sha256: sum[:]}
		_ = stream.Send(&longshore.UploadRequest{Message: &longshore.UploadRequest_Commit{Commit: commit}})
	}
	answer, err := stream.CloseAndRecv()
	return answer.GetUpload(), err
}

// From where the caller has it: of the same object.
func (c *Client) download(key string) {
	var data []byte
	request := &longshore.DownloadRequest{Name: key}
	for {
		err := c.fetch(request, &data)
		if errors.Is(err, io.EOF) {
			break
		} else if !broken(err) {
			check(err)
		}
		request.Offset = int64(len(data))
		say(map[string]any{"resumed_at": request.Offset})
		time.Sleep(pause)
	}
	sum := sha256.Sum256(data)
	if string(sum[:]) != string(request.IfSha256) {
		log.Fatal("the bytes are not those that were stored")
	}
	say(map[string]any{"size": len(data), "sha256": hex.EncodeToString(sum[:])})
}

func (c *Client) fetch(request *longshore.DownloadRequest, data *[]byte) error {
	stream, err := c.transfers.Download(background, request, grpc.WaitForReady(true))
	for err == nil {
		var message *longshore.DownloadResponse
		message, err = stream.Recv()
		if header := message.GetHeader(); header != nil {
			request.IfSha256 = header.Download.Digests.Sha256
		}
		if piece := message.GetChunk(); piece != nil {
			if crc32.Checksum(piece.Data, castagnoli) != piece.Crc32C {
				log.Fatal("a chunk is not what was sent")
			}
			if len(*data) == 0 {
				say(map[string]any{"begun": len(piece.Data)})
			}
			*data = append(*data, piece.Data...)
		}
	}
	return err
}
