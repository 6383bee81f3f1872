// Package storage is the contract between the provider and its database: the records, the
// state machine of the QR grant (qrsession.go, qrpoll.go, qrdecision.go) and the Store
// interface that a driver implements. It holds the records and their rules and imports nothing
// of this module.
//
// It never speaks HTTP or OAuth wire formats and never reads a clock: every method that needs
// the time is given it. Of passwords, codes and tokens it sees hashes only. The provider's own
// private keys (Key.Secret) it keeps in the clear, so the database has to be protected like
// them: the file of storage/bolt is made with mode 0600, and backups need the same care.
//
// # Design
//
// The state machine lives here, beside the record, because its invariants must hold inside
// the driver's transaction: UpdateQRSession runs a pure function on the current record and
// stores the result as one compare-and-swap together with the audit rows the function caused.
// Steps return an outcome value rather than an error, because an OAuth error is not a
// rollback: a wrong check code or a raised polling interval must persist.
//
// An approval of the direct door waits for about two polls, one of the hosted door 120 s: a
// person has to put the phone down, look up and press a button, and a page without script looks
// again only every few seconds. The longer wait gives nothing away, because it is bound to the
// browser's cookie, needs that click, and ends with the phone's handle: for all of it the
// person can still deny.
//
// What counts once has two places. A code, a pushed request and a refresh token are records of
// their own and are used up where they stand (Tokens), with the unit of work that they pay for.
// The identifiers that clients choose, of proofs and assertions, are only remembered until they
// would no longer be accepted anyway (Replays), and stay used whatever becomes of the request.
//
// A client that registered itself is a record like any other, and Client.Source tells it apart:
// an operator's file replaces and warns of its own clients only.
//
// The driver, and not its caller, writes the notices of an ended sign-in, in the transaction of
// EndSession: whoever ends one, a request or an operator's tool beside the server, forgets no
// client, and no process that stops takes a notice with it.
package storage
