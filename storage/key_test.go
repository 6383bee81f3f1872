package storage_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/qrgrant/qrgrant/storage"
)

// A private key is in no log and in no message, however it is printed.
func TestKeyPrintsRedacted(t *testing.T) {
	t.Parallel()
	secret := []byte("a private key of the provider!!!")
	key := storage.Key{ID: "s-1", Use: storage.KeyServer, Algorithm: "ES256", Secret: secret}
	var printed bytes.Buffer
	for _, value := range []any{key, &key, []storage.Key{key}, []*storage.Key{&key}, struct{ K storage.Key }{key}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X"} {
			_, _ = fmt.Fprintf(&printed, verb+"\n", value)
		}
		slog.New(slog.NewTextHandler(&printed, nil)).Info("text", slog.Any("key", value))
		slog.New(slog.NewJSONHandler(&printed, nil)).Info("json", slog.Any("key", value))
	}
	out := printed.String()
	for _, spelling := range []string{
		string(secret), hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret)), base64.StdEncoding.EncodeToString(secret),
		strings.Trim(fmt.Sprintf("%d", secret), "[]"), strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", secret), "[]byte{"), "}"),
	} {
		if strings.Contains(out, spelling) {
			t.Errorf("%q is printed:\n%s", spelling, out)
		}
	}
	for _, want := range []string{"redacted", "s-1"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not printed:\n%s", want, out)
		}
	}
}
