package bolt

import (
	"encoding/binary"
	"time"

	"go.etcd.io/bbolt"
)

// The kinds of records in the expiry index.
const (
	expiryQR byte = iota + 1
	expiryToken
	expirySession
)

// timeLen is the length of appendTime's result.
const timeLen = 8

// nanosOf is t in nanoseconds. Years outside 1678 to 2261, such as that of the zero time, become
// the first or the last instant.
func nanosOf(t time.Time) int64 {
	switch year := t.UTC().Year(); {
	case year < 1678:
		return -1 << 63
	case year > 2261:
		return 1<<63 - 1
	}
	return t.UnixNano()
}

// appendTime appends t so that bytes sort as times do.
func appendTime(key []byte, t time.Time) []byte {
	return binary.BigEndian.AppendUint64(key, uint64(nanosOf(t))^1<<63)
}

// readTime reads what appendTime wrote at the start of a key.
func readTime(key []byte) time.Time {
	return time.Unix(0, int64(binary.BigEndian.Uint64(key)^1<<63))
}

func expiryKey(due time.Time, kind byte, key []byte) []byte {
	row := make([]byte, 0, timeLen+1+len(key))
	row = appendTime(row, due)
	row = append(row, kind)
	return append(row, key...)
}

// putExpiry adds the index row of a record; it goes into the transaction of the record.
func putExpiry(tx *bbolt.Tx, due time.Time, kind byte, key []byte) error {
	return in(tx, bucketExpiry).Put(expiryKey(due, kind, key), nil)
}

func removeExpiry(tx *bbolt.Tx, due time.Time, kind byte, key []byte) error {
	return in(tx, bucketExpiry).Delete(expiryKey(due, kind, key))
}

// indexKey is the key of an index row: the length keeps "a"+"bc" and "ab"+"c" apart.
func indexKey(id string, key []byte) []byte {
	row := make([]byte, 0, 2+len(id)+len(key))
	row = binary.BigEndian.AppendUint16(row, uint16(min(len(id), 1<<16-1)))
	row = append(row, id...)
	return append(row, key...)
}
