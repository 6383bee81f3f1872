package provider

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/mux"
	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// pathSessions is where the phone app finds the sign-ins that the person approved (protocol §6).
const pathSessions = "/sessions"

// newFor is how long a sign-in is marked as new. It goes by the clock and not by who has seen it:
// looking changes nothing, and a thief who looks first must not take the mark away.
const newFor = 24 * time.Hour

// What an audit row says of who ended a sign-in.
const (
	endedByPhone     = "phone"
	endedByAccount   = "account"
	endedByLostPhone = "lost_phone"
)

// sessionsAnswer is the answer of GET /sessions, newest first.
type sessionsAnswer struct {
	Sessions []sessionItem `json:"sessions"`
}

// sessionItem is one sign-in. Its device is the user agent in words; its address is there only
// when the phone that asks is on the same network.
type sessionItem struct {
	SID        string           `json:"sid"`
	Client     sessionClient    `json:"client"`
	Device     string           `json:"device"`
	Address    string           `json:"address,omitempty"`
	CreatedAt  time.Time        `json:"created_at"`
	ApprovedBy *sessionApproval `json:"approved_by,omitempty"`
	// Current marks the sign-in of the phone that asks.
	Current bool `json:"current"`
	New     bool `json:"new"`
}

// sessionClient is a client by its name, or by its id where there is no name, no such client any
// more, or a disabled one.
type sessionClient struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// approver marks a phone app.
	approver bool
}

// sessionApproval is the phone's sign-in that approved. Client is nil for one in a browser.
type sessionApproval struct {
	Client *sessionClient `json:"client,omitempty"`
	SID    string         `json:"sid"`
}

// sessions is GET /sessions: every sign-in that the person approved and that lasts, with the
// phone's own.
func (p *Provider) sessions(w http.ResponseWriter, r *http.Request) {
	a, err := p.qr.Approver(w, r)
	if err != nil {
		p.qr.RefusePhone(r.Context(), w, err)
		return
	}
	stored, err := p.config.Store.SessionsBySubject(r.Context(), a.Subject)
	if err != nil {
		p.qr.RefusePhone(r.Context(), w, err)
		return
	}
	answer := sessionsAnswer{Sessions: []sessionItem{}}
	names := p.clientNames()
	for _, s := range stored {
		if !s.ActiveAt(p.config.Now()) || !listedOnPhone(s, a.SessionID) {
			continue
		}
		item, err := p.sessionItem(r.Context(), s, a, names)
		if err != nil {
			p.qr.RefusePhone(r.Context(), w, err)
			return
		}
		answer.Sessions = append(answer.Sessions, item)
	}
	writeJSON(w, http.StatusOK, answer)
}

// listedOnPhone: the phone shows what was approved and itself. A sign-in with a password is the
// account page's affair, which asks for that password.
func listedOnPhone(s *storage.Session, current string) bool { return s.QRBorn || s.ID == current }

func (p *Provider) sessionItem(ctx context.Context, s *storage.Session, a qr.Approver, name clientNamer) (sessionItem, error) {
	item := sessionItem{
		SID: s.ID, Device: s.Device, CreatedAt: s.CreatedAt.UTC().Truncate(time.Second),
		Current: s.ID == a.SessionID, New: p.isNew(s, a.SessionID),
	}
	if qr.Near(a.Address, s.Address) {
		item.Address = s.Address
	}
	id := s.ClientID
	if item.Current && id == "" {
		id = a.ClientID
	}
	var err error
	if item.Client, err = name(ctx, id); err != nil || !s.QRBorn {
		return item, err
	}
	item.ApprovedBy = &sessionApproval{SID: s.ParentID}
	if s.ApproverID != "" {
		client, err := name(ctx, s.ApproverID)
		if err != nil {
			return item, err
		}
		item.ApprovedBy.Client = &client
	}
	return item, nil
}

// isNew reports whether a sign-in is marked as new for somebody who is at another one.
func (p *Provider) isNew(s *storage.Session, current string) bool {
	return s.ID != current && p.config.Now().Sub(s.CreatedAt) < newFor
}

// clientNamer names clients; it reads each one once.
type clientNamer func(ctx context.Context, id string) (sessionClient, error)

func (p *Provider) clientNames() clientNamer {
	known := make(map[string]sessionClient)
	return func(ctx context.Context, id string) (sessionClient, error) {
		if c, ok := known[id]; ok {
			return c, nil
		}
		c := sessionClient{ID: id, Name: id}
		client, err := p.tokens.Client(ctx, id)
		switch {
		case errors.Is(err, fosite.ErrNotFound):
		case err != nil:
			return c, err
		default:
			c.Name, c.approver = cmp.Or(client.Name, id), client.Approver
		}
		known[id] = c
		return c, nil
	}
}

// revokeSession is DELETE /sessions/{sid}. Ending what has ended is no error; what is unknown,
// another person's or not on the phone's list is one and the same answer.
func (p *Provider) revokeSession(w http.ResponseWriter, r *http.Request) {
	a, err := p.qr.Approver(w, r)
	if err != nil {
		p.qr.RefusePhone(r.Context(), w, err)
		return
	}
	s, err := p.signInOf(r.Context(), a.Subject, mux.Vars(r)["sid"])
	if err == nil && !listedOnPhone(s, a.SessionID) {
		err = storage.ErrNotFound
	}
	if err == nil {
		err = p.revokeSignIn(r.Context(), s, endedByPhone)
	}
	if errors.Is(err, storage.ErrNotFound) {
		err = &qr.Problem{Status: http.StatusNotFound, Code: "not_found", Detail: "There is no such sign-in."}
	}
	p.answerRevoked(w, r, err)
}

// revokeAll is POST /sessions/revoke-all: the phone is lost, and with its sign-in ends whatever
// it approved.
func (p *Provider) revokeAll(w http.ResponseWriter, r *http.Request) {
	a, err := p.qr.Approver(w, r)
	if err != nil {
		p.qr.RefusePhone(r.Context(), w, err)
		return
	}
	object, err := form.ReadObject(w, r, "reason")
	var fault *form.Fault
	switch {
	case errors.As(err, &fault):
		err = &qr.Problem{Status: fault.Status, Code: "invalid_request", Detail: fault.Sentence}
	case object["reason"] != "lost_phone":
		err = &qr.Problem{Status: http.StatusBadRequest, Code: "invalid_request", Detail: "The reason must be lost_phone."}
	default:
		err = p.losePhone(r.Context(), a.Subject, a.SessionID)
	}
	p.answerRevoked(w, r, err)
}

func (p *Provider) answerRevoked(w http.ResponseWriter, r *http.Request, err error) {
	if err != nil {
		p.qr.RefusePhone(r.Context(), w, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
}

// signInOf returns a person's sign-in; storage.ErrNotFound for any other.
func (p *Provider) signInOf(ctx context.Context, subject, sid string) (*storage.Session, error) {
	s, err := p.config.Store.Session(ctx, sid)
	if err == nil && s.Subject != subject {
		err = storage.ErrNotFound
	}
	return s, err
}

// revokeSignIn ends a sign-in that the person does not want any more, with those that it took the
// place of in the same browser: whoever is to be kept out of the one still has the others. It goes
// on when the one who asked is gone, because half an end helps nobody.
func (p *Provider) revokeSignIn(ctx context.Context, s *storage.Session, by string) error {
	ctx = context.WithoutCancel(ctx)
	err := p.endChain(ctx, s)
	p.recordRevoked(ctx, s, by, err)
	return err
}

// recordRevoked adds the audit row of a QR-born sign-in's end; one with a password is no matter
// of the QR grant. endErr is what ending it and what goes with it returned: after a failure the
// record tells whether this one has ended, for the next try adds no row of it then.
func (p *Provider) recordRevoked(ctx context.Context, s *storage.Session, by string, endErr error) {
	if !s.QRBorn || !s.EndedAt.IsZero() {
		return
	}
	if endErr != nil {
		if now, err := p.config.Store.Session(ctx, s.ID); err != nil || now.EndedAt.IsZero() {
			return
		}
	}
	p.config.Store.RecordEvent(ctx, storage.AuditEvent{
		At: p.config.Now(), Type: storage.EventQRRevoked, ClientID: s.ClientID, Subject: s.Subject,
		ApproverID: s.ApproverID, SessionID: s.ID, Detail: by,
	})
}

// losePhone ends the phone's sign-in sid and what it approved. The phone goes first, and with it
// what it has claimed, so that nothing it approved can be redeemed while the list is read.
func (p *Provider) losePhone(ctx context.Context, subject, sid string) error {
	ctx = context.WithoutCancel(ctx)
	if sid == "" {
		return nil
	}
	stored, err := p.config.Store.SessionsBySubject(ctx, subject)
	if err != nil {
		return err
	}
	phone := sameBrowser(stored, sid)
	err = p.endEvery(ctx, stored, endedByLostPhone, func(s *storage.Session) bool { return phone[s.ID] })
	stored, errList := p.config.Store.SessionsBySubject(ctx, subject)
	return errors.Join(err, errList, p.endEvery(ctx, stored, endedByLostPhone, func(s *storage.Session) bool { return phone[s.ParentID] }))
}

// endEvery ends the sign-ins that match and have not ended. One that is past its time counts: its
// clients may not be.
func (p *Provider) endEvery(ctx context.Context, stored []*storage.Session, by string, match func(*storage.Session) bool) error {
	var errs []error
	for _, s := range stored {
		if s.EndedAt.IsZero() && match(s) {
			err := p.endSignIn(ctx, "", s.ID)
			p.recordRevoked(ctx, s, by, err)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// sameBrowser returns the ids of the sign-ins that came after one another in the browser of sid
// (follow), also of those whose record is gone: a phone that was asked to sign in again is the
// same phone, and what it approved before is lost with it.
func sameBrowser(stored []*storage.Session, sid string) map[string]bool {
	beside := make(map[string][]string)
	for _, s := range stored {
		if s.ReplacesID != "" {
			beside[s.ID] = append(beside[s.ID], s.ReplacesID)
			beside[s.ReplacesID] = append(beside[s.ReplacesID], s.ID)
		}
	}
	found, next := map[string]bool{sid: true}, []string{sid}
	for len(next) > 0 {
		id := next[len(next)-1]
		next = next[:len(next)-1]
		for _, other := range beside[id] {
			if !found[other] {
				found[other] = true
				next = append(next, other)
			}
		}
	}
	return found
}

// isSessions reports whether a path is one of the phone's list.
func (p *Provider) isSessions(path string) bool {
	below, ok := strings.CutPrefix(path, p.pathOf(routeSessions))
	return ok && (below == "" || strings.HasPrefix(below, "/"))
}

// wrongSessionsMethod says so as the phone endpoints say everything: as a problem.
func (p *Provider) wrongSessionsMethod(w http.ResponseWriter, r *http.Request) {
	allowed := slices.Clone(p.allow[r.URL.Path])
	if len(allowed) == 0 {
		allowed = []string{http.MethodDelete}
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	p.qr.RefusePhone(r.Context(), w, &qr.Problem{
		Status: http.StatusMethodNotAllowed, Code: "invalid_request", Detail: "The method is not allowed here.",
	})
}
