package fositestore

import (
	"context"

	"github.com/ory/fosite"
)

type keyKey struct{}

// WithKey returns a context that knows the thumbprint of the DPoP key the request has proved to
// hold; empty for none.
func WithKey(ctx context.Context, jkt string) context.Context {
	return context.WithValue(ctx, keyKey{}, jkt)
}

// KeyFrom returns what WithKey put there.
func KeyFrom(ctx context.Context) string {
	jkt, _ := ctx.Value(keyKey{}).(string)
	return jkt
}

// holdsKey reports whether the request has proved the key that an artefact is bound to, if it is
// bound to one.
func holdsKey(ctx context.Context, artefact fosite.Requester) bool {
	session, ok := artefact.GetSession().(Session)
	if !ok {
		return false
	}
	jkt := session.Facts().JKT
	return jkt == "" || jkt == KeyFrom(ctx)
}
