// Package fositestore is the only adapter from fosite's storage methods to storage.Store.
//
// fosite keeps one table per artefact and marshals whole requests into them, client secret
// included. Here every artefact is one storage.Token whose Data is a typed, versioned record:
// the authorization code, its PKCE challenge and its OpenID Connect facts are one write, and
// a stored secret can only be a hash.
//
// It never decides anything about OAuth. It reports a used code and a used refresh token with
// the request they belonged to, which is how fosite learns that a family must be revoked, and
// it turns every use into a compare-and-swap of the caller's unit of work (storage.Store.Tx).
package fositestore
