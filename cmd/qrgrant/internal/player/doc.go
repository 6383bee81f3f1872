// Package player plays the two devices of a QR sign-in over HTTP: the consumption device (the
// PC that wants to sign in) and the authorization device (the phone that approves). The verbs
// demo, login and phone are thin layers over it.
//
// It knows nothing of the server beyond its HTTP interface, never prints, never asks a person
// and never stores a token.
//
// # Order
//
// PC: ConsumptionDevice.Open → Attempt.Await (poll until an end) → ConsumptionDevice.Verify.
// Phone: ReadReference (what was scanned or typed) → Approver.SignIn (authorization code and
// PKCE through the HTML forms) → Approver.Scan → Approver.Decide.
package player
