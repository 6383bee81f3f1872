package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// recordFormat is the first byte of every value: how the rest is encoded.
const recordFormat = 1

// errUnreadable: a value that is no record of its kind, because the file was damaged where no
// checksum covers it.
var errUnreadable = errors.New("storage/bolt: unreadable record")

// codec turns records into bytes and back: CBOR behind one format byte.
type codec struct {
	enc cbor.UserBufferEncMode
	dec cbor.DecMode
	// buffers are what records are encoded into before they are cut to size.
	buffers *sync.Pool
}

// maxBuffer is the largest buffer that is used again.
const maxBuffer = 64 << 10

func newCodec() (codec, error) {
	enc, err := cbor.EncOptions{
		// Nanoseconds must come back: the grant compares deadlines exactly.
		Time: cbor.TimeRFC3339NanoUTC,
		// Equal records must be equal bytes, also those with claims: that is how an
		// update that changed nothing is noticed.
		Sort: cbor.SortBytewiseLexical,
	}.UserBufferEncMode()
	if err != nil {
		return codec{}, fmt.Errorf("storage/bolt: encoder: %w", err)
	}
	dec, err := cbor.DecOptions{
		DefaultMapType: reflect.TypeFor[map[string]any](),
		// Integer claims come back as int64 rather than as uint64 or int64 by sign.
		IntDec: cbor.IntDecConvertSignedOrBigInt,
		// Text that a client sent must not make its record unreadable.
		UTF8: cbor.UTF8DecodeInvalid,
	}.DecMode()
	if err != nil {
		return codec{}, fmt.Errorf("storage/bolt: decoder: %w", err)
	}
	return codec{enc: enc, dec: dec, buffers: &sync.Pool{New: func() any { return new(bytes.Buffer) }}}, nil
}

// encode returns a slice of exactly the length of the record: pending sessions live in
// memory as such slices.
func (c codec) encode(record any) ([]byte, error) {
	buf, ok := c.buffers.Get().(*bytes.Buffer)
	if !ok {
		buf = new(bytes.Buffer)
	}
	buf.Reset()
	buf.WriteByte(recordFormat)
	if err := c.enc.MarshalToBuffer(record, buf); err != nil {
		return nil, fmt.Errorf("storage/bolt: encode %T: %w", record, err)
	}
	raw := make([]byte, buf.Len())
	copy(raw, buf.Bytes())
	if buf.Cap() <= maxBuffer {
		c.buffers.Put(buf)
	}
	return raw, nil
}

// decode copies everything out of raw, which may be a page of the file. All its errors are
// errUnreadable.
func decode[T any](c codec, raw []byte) (*T, error) {
	record := new(T)
	if len(raw) == 0 {
		return nil, fmt.Errorf("%w: %T is empty", errUnreadable, record)
	}
	if raw[0] != recordFormat {
		return nil, fmt.Errorf("%w: %T has format %d, this version reads %d", errUnreadable, record, raw[0], recordFormat)
	}
	if err := c.dec.Unmarshal(raw[1:], record); err != nil {
		return nil, fmt.Errorf("%w: decode %T: %w", errUnreadable, record, err)
	}
	return record, nil
}
