package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"

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
}

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
	return codec{enc: enc, dec: dec}, nil
}

// encode returns a slice of exactly the length of the record: pending sessions live in
// memory as such slices.
func (c codec) encode(record any) ([]byte, error) {
	var buf bytes.Buffer
	buf.Grow(512)
	buf.WriteByte(recordFormat)
	if err := c.enc.MarshalToBuffer(record, &buf); err != nil {
		return nil, fmt.Errorf("storage/bolt: encode %T: %w", record, err)
	}
	return bytes.Clone(buf.Bytes()), nil
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
