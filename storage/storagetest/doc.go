// Package storagetest is the conformance suite of storage.Store: every driver passes Run, and
// a driver written elsewhere can too. It checks the contract only, never a driver's insides,
// and it never sleeps: time is handed to the store, and races are started from one gate.
//
// # Design
//
// Times in the suite have whole microseconds, the resolution of PostgreSQL. Each test opens a
// store of its own, so that all of them run in parallel and a failure names one fault.
package storagetest
