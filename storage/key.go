package storage

import (
	"fmt"
	"log/slog"
)

var (
	_ slog.LogValuer = Key{}
	_ fmt.Stringer   = Key{}
	_ fmt.GoStringer = Key{}
)

// String returns what may be shown of the key: everything but Secret.
func (k Key) String() string {
	return fmt.Sprintf("{%s %s %s redacted}", k.ID, k.Use, k.Algorithm)
}

// GoString returns what String does, for %#v.
func (k Key) GoString() string { return "storage.Key" + k.String() }

// LogValue returns what may be logged of the key: everything but Secret.
func (k Key) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("id", k.ID), slog.String("use", string(k.Use)), slog.String("algorithm", k.Algorithm),
		slog.Time("created_at", k.CreatedAt), slog.String("secret", "redacted"),
	)
}
