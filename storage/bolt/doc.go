// Package bolt is the embedded driver of storage.Store: one bbolt file, one process. It owns
// the file's layout, the group commit, the memory of undecided QR sessions and of used
// identifiers, and the checks a file must pass before it is opened. It never decides anything
// about the grant (package storage does, in the closures it is handed) and never reads a clock.
//
// A write goes: unit of work (unit.go) → group commit (commit.go) → one file per record
// (qrsessions.go, tokens.go, …) → codec.go. A read goes straight from the record's file to
// memory or to a read transaction.
//
// # Design
//
// Group commit. One goroutine takes whatever units queued while the last commit ran and runs
// them in one bbolt transaction: there is no timer, so a single writer waits for one fsync and
// sixty-four writers share one. All checks of a unit run before its first write; a failed
// check costs only that unit. bbolt's own DB.Batch waits 10 ms and undoes a whole batch for
// one loser.
//
// QR sessions. What disk does not have yet, memory has, and memory wins: a reader looks there
// first and a writer removes it only after the commit. So an opened session costs no write at
// all, a scanned one only if it is still undecided at the next sweep, and everything else is on
// disk before it is acknowledged. A clean Close writes what memory holds; the next Open finds
// it on disk and has nothing to load. A crash loses opened and scanned sessions only, and an
// unknown reference is never approvable. Writers of one session take turns by a lock per id;
// readers decode the committed bytes and wait for nobody. A unit of work that holds one session
// does not wait for a second, it gets storage.ErrConflict: that is how there is no deadlock.
//
// Used identifiers (replays.go). Memory answers, because a proof comes with every request of some
// clients; the rows are written behind and read at Open only. A crash may therefore forget the
// last ones, which are good for a minute or two. What is due goes by its second, like sessions,
// and makes room for others before a sweep has come.
//
// Caches. Clients, users and sign-ins are read by nearly every request, so memory keeps those
// read last, decoded. A write forgets its record when its transaction has been committed and
// before it is acknowledged: who ended a sign-in finds it ended.
//
// Audit rows. Each row of a move carries the version it led to; a row is written when the
// record on disk is older than that. So a row is written exactly once, whether the sweep or
// the next durable change of the session writes it.
//
// Errors. After a failed commit nobody knows what is on disk. The store then takes no more
// writes and Health says so; the process is to be restarted. A full disk or MaxSize is told
// apart: nothing was written, the writes fail with storage.ErrFull, later ones work again.
//
// Opening. bbolt panics in a goroutine of its own when it loads a damaged file, which nobody
// can recover, so Open first takes the shared lock and reads every reachable page itself. A
// file it does not understand stays untouched.
//
// Known limits. bbolt has no checksum on data pages: a byte that flips inside a value is found
// only if it breaks the encoding. When the newer of the two meta pages is destroyed, bbolt
// falls back to the older one, which is the state one commit earlier, and nothing in the file
// tells. An audit row belongs to the time of its event, so a reader that pages through Events
// may miss a row written behind with an earlier time.
package bolt
