package bolt_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

func TestTimesComeBackInUTC(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("east", 5*3600+1800)
	for _, at := range []time.Time{{}, instant(), instant().In(zone), time.Now(), time.Unix(0, 1)} {
		raw, err := bolt.EncodeRecord(&storage.Key{CreatedAt: at})
		if err != nil {
			t.Fatal(err)
		}
		got, err := bolt.DecodeRecord[storage.Key](raw)
		if err != nil {
			t.Fatal(err)
		}
		if !got.CreatedAt.Equal(at) || got.CreatedAt.Location() != time.UTC {
			t.Errorf("%v came back as %v", at, got.CreatedAt)
		}
	}
}

func TestClaimsComeBackAsPlainValues(t *testing.T) {
	t.Parallel()
	want := map[string]any{
		"text": "ä", "yes": true, "list": []any{"a", int64(1)}, "nested": map[string]any{"n": nil},
		"large": int64(9007199254740993), "negative": int64(-1), "fraction": 1.5,
	}
	raw, err := bolt.EncodeRecord(&storage.User{Claims: want})
	if err != nil {
		t.Fatal(err)
	}
	again, err := bolt.EncodeRecord(&storage.User{Claims: want})
	if err != nil || !bytes.Equal(raw, again) {
		t.Errorf("two encodings differ, %v", err)
	}
	got, err := bolt.DecodeRecord[storage.User](raw)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got.Claims); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTextThatIsNotUTF8ComesBack(t *testing.T) {
	t.Parallel()
	raw, err := bolt.EncodeRecord(&storage.QRSession{DeviceName: "a\xff\x80"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := bolt.DecodeRecord[storage.QRSession](raw); err != nil || got.DeviceName != "a\xff\x80" {
		t.Errorf("came back as %v, %v", got, err)
	}
}

func TestUnknownFormatsAreRefused(t *testing.T) {
	t.Parallel()
	raw, err := bolt.EncodeRecord(&storage.Client{ID: "c"})
	if err != nil {
		t.Fatal(err)
	}
	newer := bytes.Clone(raw)
	newer[0] = 2
	if _, err := bolt.DecodeRecord[storage.Client](newer); err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("a newer format: %v", err)
	}
	for _, damaged := range [][]byte{nil, {}, {1}, raw[:len(raw)-1]} {
		if _, err := bolt.DecodeRecord[storage.Client](damaged); err == nil {
			t.Errorf("%x was decoded", damaged)
		}
	}
}

// FuzzCodec checks that no bytes hurt the decoder, and that what it reads it can write and
// read again.
func FuzzCodec(f *testing.F) {
	qs := opening(1, instant())
	qs.Version, qs.State = 1, storage.QRPending
	claim(qs)
	for _, record := range []any{qs, &storage.User{Claims: map[string]any{"a": []any{int64(1)}}}, &storage.Token{Data: []byte{1}}} {
		raw, err := bolt.EncodeRecord(record)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte{1, 0xa0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		roundTrip[storage.QRSession](t, raw)
		roundTrip[storage.User](t, raw)
		roundTrip[storage.Token](t, raw)
		roundTrip[storage.Session](t, raw)
		roundTrip[storage.AuditEvent](t, raw)
	})
}

func roundTrip[T any](t *testing.T, raw []byte) {
	t.Helper()
	record, err := bolt.DecodeRecord[T](raw)
	if err != nil {
		return
	}
	encoded, err := bolt.EncodeRecord(record)
	if err != nil {
		t.Skip("a value that only foreign bytes can hold")
	}
	again, err := bolt.DecodeRecord[T](encoded)
	if err != nil {
		t.Fatalf("what was written cannot be read: %v", err)
	}
	if diff := cmp.Diff(record, again, cmpopts.EquateEmpty(), cmpopts.EquateNaNs(), cmpopts.IgnoreUnexported(storage.QRSession{})); diff != "" {
		t.Errorf("(-first +second):\n%s", diff)
	}
}
