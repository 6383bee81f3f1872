package load

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// grant is the QR grant's grant_type (protocol §1).
const grant = "urn:qrgrant:params:oauth:grant-type:qr_code"

// verifier is the PKCE verifier of every attempt: what it protects is thrown away, and hashing
// one per attempt would be the client's work, not the server's.
const verifier = "qrgrant-bench-verifier-of-forty-three-characters"

// Flow is the steps of a QR sign-in as the PC of one client and the phones of some people.
// Its methods may be used by many callers, each on its own connection.
type Flow struct {
	open, token, heldToken, events []byte
	clientID, openBody, pollBody   string
	scan, decide                   [][]byte
}

// Attempt is one sign-in on its way.
type Attempt struct {
	// Person is which of the bearer tokens scans it.
	Person                    int
	deviceCode, payload       string
	handle, digest, checkCode string
}

// UnexpectedError is an answer that the protocol does not foresee at this point.
type UnexpectedError struct {
	// Operation is open, poll, scan, decision or redeem.
	Operation string
	Status    int
	// Code is the answer's error member, empty when it had none.
	Code string
}

func (e *UnexpectedError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("%s: the server answered %d %s", e.Operation, e.Status, e.Code))
}

// NewFlow prepares the requests of a client of the QR grant, and of people whose access tokens
// may approve.
func NewFlow(t Target, clientID string, bearers []string) *Flow {
	sum := sha256.Sum256([]byte(verifier))
	f := &Flow{
		open:      t.head(http.MethodPost, "/device_authorization", formType),
		token:     t.head(http.MethodPost, "/token", formType),
		events:    t.head(http.MethodPost, "/qr/events", formType),
		clientID:  clientID,
		heldToken: t.head(http.MethodPost, "/token", formType, "Prefer: wait=25"),
		openBody: url.Values{
			"client_id": {clientID}, "scope": {"openid profile"}, "nonce": {verifier},
			"code_challenge":        {base64.RawURLEncoding.EncodeToString(sum[:])},
			"code_challenge_method": {"S256"},
		}.Encode(),
		pollBody: url.Values{"client_id": {clientID}, "grant_type": {grant}, "code_verifier": {verifier}}.Encode() + "&device_code=",
	}
	f.SetBearers(t, bearers)
	return f
}

// SetBearers replaces the people's access tokens; no caller may be at work.
func (f *Flow) SetBearers(t Target, bearers []string) {
	f.scan, f.decide = nil, nil
	for _, bearer := range bearers {
		f.scan = append(f.scan, t.head(http.MethodPost, "/qr/scan", jsonType, "Authorization: Bearer "+bearer))
		f.decide = append(f.decide, t.head(http.MethodPost, "/qr/decision", jsonType, "Authorization: Bearer "+bearer))
	}
}

// Open opens the n-th attempt.
func (f *Flow) Open(c *Conn, n int) (*Attempt, error) {
	c.out = compose(c.out, f.open, f.openBody)
	answer, err := c.Do(c.out)
	if err != nil {
		return nil, err
	}
	a := &Attempt{}
	if len(f.scan) > 0 {
		a.Person = n % len(f.scan)
	}
	var hasCode, hasPayload bool
	a.deviceCode, hasCode = member(answer.Body, "device_code")
	a.payload, hasPayload = member(answer.Body, "payload")
	if answer.Status != http.StatusOK || !hasCode || !hasPayload {
		return nil, unexpected("open", answer)
	}
	return a, nil
}

// Scan claims the attempt as its person.
func (f *Flow) Scan(c *Conn, a *Attempt) error {
	if err := f.SendScan(c, a); err != nil {
		return err
	}
	return f.ReceiveScan(c, a)
}

// SendScan is the first half of Scan.
func (f *Flow) SendScan(c *Conn, a *Attempt) error {
	c.out = compose(c.out, f.scan[a.Person], `{"entry":"scanner","payload":"`, a.payload, `"}`)
	return c.Send(c.out)
}

// ReceiveScan is the second half of Scan.
func (f *Flow) ReceiveScan(c *Conn, a *Attempt) error {
	answer, err := c.Receive()
	if err != nil {
		return err
	}
	var hasHandle, hasDigest bool
	a.handle, hasHandle = member(answer.Body, "confirm_handle")
	a.digest, hasDigest = member(answer.Body, "context_digest")
	if answer.Status != http.StatusOK || !hasHandle || !hasDigest {
		return unexpected("scan", answer)
	}
	return nil
}

// Poll polls a pending attempt, takes the check code if it has been scanned, and reports the
// error code of the answer: authorization_pending, or slow_down if that came too early.
func (f *Flow) Poll(c *Conn, a *Attempt) (code string, err error) {
	c.out = compose(c.out, f.token, f.pollBody, a.deviceCode)
	answer, err := c.Do(c.out)
	if err != nil {
		return "", err
	}
	code, err = pending(answer)
	if err != nil {
		return "", err
	}
	a.checkCode, _ = member(answer.Body, "check_code")
	return code, nil
}

// pending reads the error code of an answer to a poll that has to come again.
func pending(answer Answer) (string, error) {
	code, _ := member(answer.Body, "error")
	if answer.Status != http.StatusBadRequest || code != "authorization_pending" && code != "slow_down" {
		return "", unexpected("poll", answer)
	}
	return code, nil
}

// FirstPoll is a Poll that is never early; slow_down is no answer to it. scanned says whether
// the attempt has been.
func (f *Flow) FirstPoll(c *Conn, a *Attempt, scanned bool) error {
	code, err := f.Poll(c, a)
	switch {
	case err != nil:
		return err
	case code != "authorization_pending":
		return &UnexpectedError{Operation: "poll", Status: http.StatusBadRequest, Code: code}
	case (a.checkCode != "") != scanned:
		return &UnexpectedError{Operation: "poll", Status: http.StatusBadRequest, Code: "with the wrong qr_status"}
	}
	return nil
}

// Park sends a poll that asks to be held: at most 25 s, or until the attempt changes from what
// scanned says of it. ReceiveParked reads its answer.
func (f *Flow) Park(c *Conn, a *Attempt, scanned bool) error {
	seq := "&qr_seq=1"
	if scanned {
		seq = "&qr_seq=2"
	}
	c.out = compose(c.out, f.heldToken, f.pollBody, a.deviceCode, seq)
	return c.Send(c.out)
}

// Woken is the answer to a parked poll.
type Woken struct {
	// Tokens says that the poll itself redeemed.
	Tokens bool
	// Held says that it was really held; a poll that came too late is answered at once.
	Held bool
}

// ReceiveParked waits for the answer to a parked poll and takes the check code from it.
func (f *Flow) ReceiveParked(c *Conn, a *Attempt) (Woken, error) {
	answer, err := c.Receive()
	if err != nil {
		return Woken{}, err
	}
	if answer.Status == http.StatusOK && bytes.Contains(answer.Body, []byte(`"id_token":"`)) {
		return Woken{Tokens: true, Held: true}, nil
	}
	code, err := pending(answer)
	switch {
	case err != nil:
		return Woken{}, err
	case code != "authorization_pending":
		return Woken{}, unexpected("long poll", answer)
	}
	a.checkCode, _ = member(answer.Body, "check_code")
	return Woken{Held: answer.Held}, nil
}

// Approve sends the decision of the attempt's person, with the check code of a poll before.
func (f *Flow) Approve(c *Conn, a *Attempt) error {
	c.out = compose(c.out, f.decide[a.Person], `{"decision":"approve","confirm_handle":"`, a.handle,
		`","context_digest":"`, a.digest, `","check_code":"`, a.checkCode, `"}`)
	answer, err := c.Do(c.out)
	if err != nil {
		return err
	}
	if state, _ := member(answer.Body, "state"); answer.Status != http.StatusOK || state != "approved" {
		return unexpected("decision", answer)
	}
	return nil
}

// Redeem polls an approved attempt and returns its ID token.
func (f *Flow) Redeem(c *Conn, a *Attempt) (idToken string, err error) {
	c.out = compose(c.out, f.token, f.pollBody, a.deviceCode)
	answer, err := c.Do(c.out)
	if err != nil {
		return "", err
	}
	idToken, found := member(answer.Body, "id_token")
	if answer.Status != http.StatusOK || !found {
		return "", unexpected("redeem", answer)
	}
	return idToken, nil
}

// Ready brings a new attempt as far as a poll away from tokens: open, scan, poll, decision.
func (f *Flow) Ready(c *Conn, n int) (*Attempt, error) {
	a, err := f.Scanned(c, n)
	if err != nil {
		return nil, err
	}
	return a, f.Approve(c, a)
}

// Scanned brings a new attempt as far as its decision: open, scan, poll for the check code.
func (f *Flow) Scanned(c *Conn, n int) (*Attempt, error) {
	a, err := f.Open(c, n)
	if err != nil {
		return nil, err
	}
	if err := f.Scan(c, a); err != nil {
		return nil, err
	}
	return a, f.FirstPoll(c, a, true)
}

// Login is one whole sign-in: open, scan, poll, decision, redeem.
func (f *Flow) Login(c *Conn, n int) (idToken string, err error) {
	a, err := f.Ready(c, n)
	if err != nil {
		return "", err
	}
	return f.Redeem(c, a)
}

// SlowDown shows that polling too fast is punished: of three polls at once the first counts,
// the second is the free repeat, the third is answered slow_down.
func (f *Flow) SlowDown(c *Conn) error {
	a, err := f.Open(c, 0)
	if err != nil {
		return err
	}
	for n, want := range []string{"authorization_pending", "authorization_pending", "slow_down"} {
		code, err := f.Poll(c, a)
		switch {
		case err != nil:
			return err
		case code != want:
			return fmt.Errorf("poll %d of three at once was answered %s, not %s: the interval is not enforced", n+1, code, want)
		}
	}
	return nil
}

// Wait is a held poll that a scan wakes, on two connections. The time counts from the moment
// the phone sends its scan to the moment the PC has its answer.
func (f *Flow) Wait(pc, phone *Conn, a *Attempt) (time.Duration, Woken, error) {
	start := time.Now()
	if err := f.SendScan(phone, a); err != nil {
		return 0, Woken{}, err
	}
	woken, err := f.ReceiveParked(pc, a)
	latency := time.Since(start)
	if err != nil {
		return 0, Woken{}, err
	}
	return latency, woken, f.ReceiveScan(phone, a)
}

func unexpected(operation string, answer Answer) *UnexpectedError {
	code, _ := member(answer.Body, "error")
	return &UnexpectedError{Operation: operation, Status: answer.Status, Code: code}
}
