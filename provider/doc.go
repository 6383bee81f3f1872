// Package provider is an OAuth 2.0 authorization server and OpenID provider over HTTP. Its
// special feature is the QR grant of package qr, which it serves beside the code flow.
//
// It owns the protocol: what a request says, who asks, what may be granted, how the answer
// reads. It never decides how a QR session moves (package storage), never sees a database
// driver, and keeps no state of its own but counters that a restart may forget.
//
// # Map
//
// provider.go starts everything; router.go is the one route table; compose.go the one call to
// fosite, with session.go, strategy.go, idtoken.go, pkce.go and openid.go as what is ours in
// it. Each endpoint is a file: token.go, authorize.go (parsed by authorizerequest.go, signed ones
// by requestobject.go; what is answered beside or in place of a code is in frontchannel.go),
// par.go, register.go, userinfo.go, introspect.go, revoke.go, jwks.go, discovery.go, device.go,
// q.go, logout.go, sessions.go (what the phone lists and ends), account.go (the same as a page), openapi.go,
// applinks.go, health.go. clientauth.go (with clientassertion.go and clientkeys.go), proof.go
// (DPoP, see package dpop), bearer.go, errors.go, browser.go, render.go, static.go,
// clientview.go, guard.go (with knownbrowser.go, hashqueue.go and nobody.go), password.go,
// address.go and keys.go serve several of them; accesstoken.go says what is in a JWT access token,
// resource.go whom a token may be for, pairwise.go who a person is to a client; standing.go
// whether a token, a person and a sign-in still hold; claims.go what a request may learn of a
// person; approval.go wires package qr.
//
// clientmetadata.go reads what clients say of themselves: when they register (register.go,
// registration.go), and in a document at the address that is their id (metadatadocument.go). What
// is read from addresses that clients name is read by internal/fetch, and what programs are told
// is written by internal/reply.
//
// /Q is where a QR code leads that the phone's own camera has read: q.js hands the frame over at
// once, a sealed cookie holds it while its person signs in (q.go), and device.go shows the card.
//
// # The code flow
//
//  1. authorize.go reads the request; a fault without a good redirect URI is a page. A POST
//     comes back as a GET, because Lax cookies do not travel with a form of another site. Of a
//     pushed or a signed request only what was pushed or signed counts; the pages in between
//     carry what leads to it, and the code uses a pushed one up in its own unit of work.
//  2. proceed decides: sign in (login.go), ask (consent.go), or answer. What lies between is
//     carried in the forms, sealed with an HMAC that is bound to the browser and the sign-in
//     (browser.go); nothing is stored before the person has signed in.
//  3. grantCode lets fosite make the code; internal/fositestore writes code, challenge and
//     OpenID Connect facts as one record, and that the client took part in the sign-in. The
//     answer goes by redirect or by form (formpost.go).
//  4. token.go redeems it: fosite, PKCE and the ID token run inside one unit of work, so that
//     of N racing requests one commits. A loser with a code revokes the family.
//
// A request may be answered without anybody at the browser (consent.go) when its redirect is an
// https address, which only its owner receives, or when the client has a secret. Any other could
// be another program's on the same device (RFC 8252 §8.6): the person signs in for it or says yes
// each time, to our own clients too, and prompt=none is refused. With qr:approve the secret does
// not count either, because the answer makes an approver.
//
// # The QR grant, direct door
//
//  1. qr.Server.DeviceAuthorization opens a session; the device polls token.go, which after
//     one form and one client hands over to qr.Server.Poll. A pending poll writes nothing.
//  2. The phone scans and decides at package qr with an access token that bearer (approval.go)
//     looks up, or a person does the same on device.go with a browser session.
//  3. The next poll is ready: token.go runs fosite as above, the grant handler of package qr
//     redeems, and redeemed (approval.go) stores the new sign-in in the same transaction.
//
// # The QR grant, hosted door
//
//  1. proceed needs a sign-in: login.go shows the password form, and hosted.go beside it a QR
//     code where the client's policy allows one, in a session bound to a cookie of its own.
//  2. The page's module (static.go) is told how the session stands: hostedevents.go streams it,
//     hostedstate.go answers polls, and for pages without script shows a frame that looks again
//     by itself, which leaves a half-typed password alone. Pictures are drawn for the moment.
//     Nothing there changes anything.
//  3. The phone scans and decides as above; the page then names the person who approved.
//  4. hostedcontinue.go: only the button redeems. It makes the browser's new sign-in, marked
//     QR-born, in one transaction and goes on to grantCode. "Not me" ends it instead.
//
// A sign-in ends Config.SessionLifetime after it was made, and Config.SessionIdle after its last
// use, of which the browser itself keeps a note that we seal (browser.go): no use costs a write.
// What the person left out on the phone is withheld from everything that comes of the sign-in.
// language.go chooses the texts of the pages.
//
// # The end of a sign-in
//
//  1. logout.go reads what a client wishes and asks the person; GET ends nothing. A way back is
//     an exact registered address, vouched for by an ID token or by the person's yes.
//     chain.go ends with a sign-in what it took the place of in the same browser.
//  2. endSignIn (revoke.go) is the one way to end a sign-in: tokens first, then the record.
//     A client that revokes a token ends its own tokens, and the sign-in only where it was made
//     at the direct door for that very client.
//  3. backchannel.go tells the clients that took part. The store has written whom, with the end
//     itself; the telling goes beside the request, for up to a day, and any process on the store
//     goes on with it. endings.go is for accounts and clients that are disabled or removed.
//
// # Design
//
// Tokens are opaque, unless a client asks for JWTs, and their ends are stored, because fosite
// computes with time.Now and this package with Config.Now. A sign-in's record outlives its cookie
// by the lifetime of refresh tokens: an unknown sid therefore always means an ended one, and every
// check fails closed.
// Parsing is ours in front of fosite, for what fosite gets wrong cannot be configured away;
// fosite_test.go has a test for each such fault.
//
// Server keys and signing keys are rotated alike (keyrotation.go): the next key is in the store
// before it is used, so that every process knows it, and a former one stays as long as anything
// that it made can come back.
//
// A client that answers 400 to a logout token is asked three times, because that is all it can
// say when the logout failed on its side (Back-Channel Logout §2.8); other 4xx are final. No
// client is told when a sign-in merely expires: the ID token said for how long it is good, the
// specification asks for a token when somebody signs out, and the idle time of a browser passes
// without anybody at the server.
//
// A JWT access token is stored by its hash like an opaque one: our own endpoints ask the store,
// and it ends there when its sign-in does. Only resource servers that verify it by themselves
// trust it until its exp.
//
// The nonces of DPoP proofs come of the server keys and the clock, so that they cost nothing to
// keep and every process takes those of the others. Identifiers of proofs and assertions are
// kept in memory and written behind: a crash forgets those of its last moments, and the nonce
// bounds for how long that matters.
//
// # Specifications
//
//   - RFC 6749, 6750 (OAuth 2.0, Bearer), 7636 (PKCE, S256 only), 9700 (security), 8252 §7.3
//     (loopback redirects) and §8.6, 9207 (iss)
//   - RFC 7009 (revocation), 7662 (introspection), 8414 (metadata), 7517 (JWK sets)
//   - RFC 9126 (pushed requests), 9449 (DPoP), 7521 and 7523 §2.2, §3 (private_key_jwt), 9101
//     (request objects), 8707 (resource indicators), 9068 (JWT access tokens), 7591 and 7592
//     (registration), OAuth Client ID Metadata Document (draft)
//   - RFC 8628 (device grant) and the QR grant, see package qr
//   - OpenID Connect Core 1.0 §2, §3, §5, §6, §8, §9, §10.1.1, §11, §12, Discovery 1.0 §3, §4 and
//     Dynamic Client Registration 1.0
//   - OAuth 2.0 Form Post Response Mode, OpenID Connect RP-Initiated Logout 1.0 and
//     Back-Channel Logout 1.0
package provider
