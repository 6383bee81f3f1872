// Package load drives a qrgrant server hard and measures it: a lean HTTP/1.1 client over raw
// connections, the steps of a QR sign-in as prepared requests, a loop for many callers, and
// the processor time and memory of a process.
//
// It never leaves this machine: only loopback addresses are dialled. It never decides whether
// a figure is good, and it never carries on after an answer that the protocol does not
// foresee, because a rate of errors is not a rate.
//
// # Design
//
// The client shares the cores with the server it measures. net/http's client costs more than a
// bare handler does and would make every server look alike, so this one writes prepared bytes
// and reads a status, a length and a body. It understands what net/http's server sends to
// such requests and nothing more.
package load
