// Package qr is the QR grant as one vertical slice: a consumption device (a PC or TV) opens a
// session and polls the token endpoint, an authorization device (a phone app that holds an
// access token) scans, sees who asks, and decides, and the consumption device receives
// standard OAuth 2.0 and OpenID Connect tokens. It works in any fosite server: see Config,
// Server.Factory and the package example.
//
// It owns the endpoints of both devices, the codes and frames, the polling clock and the
// limits. It never owns state: that is storage.QRSession, changed only by its own methods
// inside a compare-and-swap of the store. It never trusts a request for policy, and it never
// mints before redemption.
//
// # The way of one sign-in
//
//	device.go   POST /device_authorization: two secrets, of which only hashes are stored
//	frame.go    the signed QR payload that changes every 10 s; image.go draws it
//	poll.go     POST /token while waiting: one read, no write; held with Prefer: wait=N
//	stream.go   what waits in a stream instead, or beside: events.go over POST /qr/events,
//	            websocket.go over GET /qr/ws
//	prove.go    the keys that both devices may bind themselves to
//	phone.go    POST /qr/scan (claim.go) and POST /qr/decision (decision.go)
//	context.go  what the person sees, and the digest that ties the approval to it
//	poll.go     the held poll wakes up, approved
//	grant.go    redeem and issue in one transaction
//
// At the hosted door the sign-in page of an OpenID provider opens the session for a browser and
// redeems it there (hosted.go); a cookie stands in place of the device_code, and a browser
// session in place of the tokens. All else is the same.
//
// # States
//
//	           scan              approve              poll
//	PENDING ─────────▶ SCANNED ──────────▶ APPROVED ────────▶ REDEEMED
//	   │                  │ deny, report      │ deny, report
//	   │ cancel           ▼                   ▼
//	   └────────────▶ CANCELLED, DENIED, ABORTED     EXPIRED: derived from the clock
//
// # Three secrets, three holders
//
// The reference in the QR code (txn_ref) is public. The device_code never leaves the
// consumption device and the token endpoint. The confirm_handle is the claiming phone's;
// once decided it only repeats, denies or reports, for 120 s. The check code exists only from the scan on and is derived from the
// claim, so no lure can carry it: it shows that the person who approves sees the screen that
// asks.
//
// # Threats
//
// A photographed or mailed code is worth 20 s and no tokens (frames, device_code). A second
// phone gets no context (first claim wins). A stolen handle needs the claimer's person, client
// and sign-in. What was seen is what is approved (digest). One approval yields one redemption
// (compare-and-swap with the tokens in the same transaction), and a replay ends the family. A
// QR-born token cannot approve. What cannot be stopped is a live relay to a person who types
// the code shown by the attacker's page; the context, short lifetimes and the report button
// limit it. Passkeys over FIDO hybrid transport prove nearness, this grant does not.
//
// # Design
//
// The device_code and the confirm_handle carry the session's reference in front of their 256
// random bits: the record is found without an index of secrets, and the rest is compared in
// constant time. The phone endpoints and the /device page share Claim and Decide. Pending
// polls do not go through fosite at all (Server.Poll); only an approved one does.
//
// Every transport reads the record and tells what it says. Wake-ups are hints, and a stream says
// the present state first, so a cut costs nothing. A stream is one goroutine (a WebSocket has one
// more that reads) and one map entry; it holds no token, writes nothing, and ends with its session.
// The end of a phone's sign-in finds what it has claimed in a map in memory (signins.go), which is
// quick where this process saw the claim; the check at the redemption is the one that counts.
//
// A key (DPoP) binds both sides (prove.go): the session and its tokens to that of the consumption
// device, where the opening names one, and the claim to that of the phone, where its token is
// bound. A proof counts once, so each request is checked in one place; ProofKey tells the rest.
// Without Config.Proofs a key is refused rather than ignored, and so is a resource indicator
// without Config.Targets.
//
// Distance, city and known device read "unknown".
//
// Specifications: RFC 8628 (device grant), RFC 10027 (cross-device flows), RFC 7636 (PKCE),
// RFC 6749 §5, RFC 6750, RFC 7240 (Prefer: wait), RFC 8707 (resource), RFC 9449 (DPoP), RFC 9470
// (step-up, max_age).
package qr
