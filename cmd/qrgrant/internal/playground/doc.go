// Package playground is the page that `qrgrant dev` opens: a PC on the left, the example phone
// application on the right in a frame of its own origin, and between them and the server every
// HTTP exchange, live.
//
// Nothing on it is a mock-up. The PC is qrgrant.js at the direct door, the phone is package
// phoneapp, and the exchanges are what Recorder saw in front of the real server. Two things are
// done for the person, both through package phoneapp's documented hook for a page around it: the
// text of the code on the left is handed over instead of a camera's picture, and the provider's
// sign-in pages, which never stand in a frame, are walked through by the program itself. The
// phone application makes and keeps the PKCE verifier, so a code that passes here is of no use
// to the page.
//
// # Guards
//
// A random key, which stands in the fragment of the printed address and so reaches no server and
// no log, is asked for by everything but the page and its files. Requests for another Host, and
// posts of another Origin, are refused: a name that is made to point at this machine leads nowhere.
// Recorder keeps no secret: what it does not know to be public it replaces by its length. It keeps
// a bounded number of exchanges, in memory.
package playground
