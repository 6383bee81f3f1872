package provider

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

const (
	purposeAccount = "account"
	// purposeAccountDone seals what the page says was done: a link of somebody else's must not
	// make it say so.
	purposeAccountDone = "account-done"
)

// What a form of the account page asks for, and beside it the target of each.
const (
	accountEnd      = "end"      // a sign-in
	accountLost     = "lost"     // a phone's sign-in
	accountOthers   = "others"   // nothing
	accountWithdraw = "withdraw" // a client
)

// accountView is the account page.
type accountView struct {
	Action, Logout, LogoutCSRF, Device string
	Name                               string
	// Done is what was just done, empty for nothing.
	Done     string
	SignIns  []accountSignIn
	Phones   []accountPhone
	Consents []accountConsent
	// Others ends every sign-in but this one; nil when there is no other.
	Others *accountForm
}

// accountForm is one button: what it does and to what, sealed.
type accountForm struct{ Action, Do, Target, CSRF string }

// accountSignIn is one sign-in. End is nil for the one of this browser, which signs out.
type accountSignIn struct {
	Title, Device, Address string
	// Apps are the clients that took part, beside the one in the title.
	Apps []string
	// How says how it was made, By which app approved it; empty for a browser.
	How, By   string
	At        accountTime
	This, New bool
	End       *accountForm
}

// accountPhone is what approves sign-ins: a phone app, or a browser at /device.
type accountPhone struct {
	Title, Device string
	// At is when it signed in; zero when its sign-in is gone.
	At accountTime
	// Approved is how many sign-ins that last it has approved.
	Approved int
	Lost     accountForm
}

// accountConsent is what a client was allowed.
type accountConsent struct {
	Client string
	Scopes []string
	// Resources are the servers that it was allowed to use them at, beside this one.
	Resources []string
	At        accountTime
	Withdraw  accountForm
}

// accountTime is a moment for the page, which has no script that would know the person's zone.
type accountTime struct{ time.Time }

// Machine and Text are the moment as HTML and as people read it; empty for none.
func (t accountTime) Machine() string { return t.format(time.RFC3339) }

// Text is the moment to the minute, in UTC.
func (t accountTime) Text() string { return t.format("2006-01-02 15:04 UTC") }

func (t accountTime) format(layout string) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(layout)
}

// account is GET, HEAD and POST /account: what a person has signed in to and allowed, and its end.
// A sign-in that was itself born of a QR approval is refused and offered a fresh one (protocol
// §8): whoever got one by deceit must not shut the person out of everything else.
func (p *Provider) account(w http.ResponseWriter, r *http.Request) {
	b, err := p.browserOf(w, r)
	switch {
	case err != nil:
		p.errorPage(w, r, err)
	case b.session == nil:
		p.signInPage(w, r, b, signInView{Next: p.pathOf(routeAccount)})
	case b.session.QRBorn:
		p.signInPage(w, r, b, signInView{
			Next:   p.pathOf(routeAccount),
			Notice: "You are signed in here by another device. To see your account and change it, sign in with your password.",
		})
	case r.Method == http.MethodPost:
		p.changeAccount(w, r, b)
	default:
		p.accountPage(w, r, b)
	}
}

// changeAccount does what one button asks for, and leads back to the page, so that a reload does
// not ask again.
func (p *Provider) changeAccount(w http.ResponseWriter, r *http.Request, b *browser) {
	do, target := r.PostForm.Get("do"), r.PostForm.Get("target")
	if err := p.checkForm(b, purposeAccount, do+" "+target, r.PostForm.Get("csrf")); err != nil {
		p.errorPage(w, r, err)
		return
	}
	// Half a change helps nobody: it goes on when the person is gone.
	ctx := context.WithoutCancel(r.Context())
	if err := p.doChange(ctx, b.session, do, target); err != nil {
		p.errorPage(w, r, unavailable(err))
		return
	}
	own, err := p.standing(ctx, b.session.Subject, b.session.ID)
	if err != nil {
		p.errorPage(w, r, unavailable(err))
		return
	}
	if !own {
		// The phone that was lost, or what took this sign-in's place, was in this browser.
		p.setSession(w, "")
		http.Redirect(w, r, p.pathOf(routeLogout), http.StatusSeeOther)
		return
	}
	seal, err := p.sealForm(b, purposeAccountDone, do)
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	http.Redirect(w, r, p.pathOf(routeAccount)+"?"+url.Values{"done": {do}, "seal": {seal}}.Encode(), http.StatusSeeOther)
}

// doChange makes a change for the person of the sign-in s. What has ended or gone in the meantime
// is no error.
func (p *Provider) doChange(ctx context.Context, s *storage.Session, do, target string) error {
	switch do {
	case accountEnd:
		other, err := p.signInOf(ctx, s.Subject, target)
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return p.revokeSignIn(ctx, other, endedByAccount)
	case accountLost:
		return p.losePhone(ctx, s.Subject, target)
	case accountOthers:
		stored, err := p.config.Store.SessionsBySubject(ctx, s.Subject)
		if err != nil {
			return err
		}
		return p.endEvery(ctx, stored, endedByAccount, func(other *storage.Session) bool { return other.ID != s.ID })
	case accountWithdraw:
		return p.withdraw(ctx, s.Subject, target)
	}
	return invalidRequest("The form is malformed.")
}

// withdraw takes back what the person allowed a client, with all that it got of it: its tokens,
// and the sign-ins that were made for it alone. The consent goes first, so that a request in
// between asks the person.
func (p *Provider) withdraw(ctx context.Context, subject, clientID string) error {
	if err := p.config.Store.DeleteConsent(ctx, subject, clientID); err != nil {
		return err
	}
	_, err := p.config.Store.RevokeTokens(ctx, storage.TokenFilter{Subject: subject, ClientID: clientID}, p.config.Now())
	stored, errList := p.config.Store.SessionsBySubject(ctx, subject)
	return errors.Join(err, errList, p.endEvery(ctx, stored, endedByAccount, func(s *storage.Session) bool {
		return s.QRBorn && s.ClientID == clientID && s.CookieHash == [32]byte{}
	}))
}

func (p *Provider) accountPage(w http.ResponseWriter, r *http.Request, b *browser) {
	v, err := p.viewAccount(r, b)
	if err != nil {
		p.errorPage(w, r, unavailable(err))
		return
	}
	p.render(w, r, http.StatusOK, "account", v)
}

// viewAccount collects what the page shows. Only sign-ins that last are on it.
func (p *Provider) viewAccount(r *http.Request, b *browser) (*accountView, error) {
	ctx, from := r.Context(), p.clientAddress(r)
	user, err := p.config.Store.User(ctx, b.session.Subject)
	if err != nil {
		return nil, err
	}
	v := &accountView{Action: p.pathOf(routeAccount), Logout: p.pathOf(routeLogout), Device: p.pathOf(routeDevice), Name: user.Login, Done: p.accountDone(r, b)}
	if v.LogoutCSRF, err = p.sealForm(b, purposeLogout, ""); err != nil {
		return nil, err
	}
	stored, err := p.config.Store.SessionsBySubject(ctx, b.session.Subject)
	if err != nil {
		return nil, err
	}
	a := &accountReader{p: p, b: b, address: from, name: p.clientNames(), stored: stored, apps: make(map[string][]sessionClient)}
	for _, s := range stored {
		if s.ActiveAt(p.config.Now()) {
			a.lasting = append(a.lasting, s)
		}
	}
	if err := a.readApps(ctx); err != nil {
		return nil, err
	}
	if v.SignIns, err = a.signIns(ctx); err != nil {
		return nil, err
	}
	if v.Phones, err = a.phones(ctx); err != nil {
		return nil, err
	}
	if v.Consents, err = a.consents(ctx); err != nil {
		return nil, err
	}
	if len(a.lasting) > 1 {
		others, err := a.form(accountOthers, "")
		if err != nil {
			return nil, err
		}
		v.Others = &others
	}
	return v, nil
}

// accountDone is the sentence of what was just done, if we have said so ourselves.
func (p *Provider) accountDone(r *http.Request, b *browser) string {
	query := r.URL.Query()
	if p.checkForm(b, purposeAccountDone, query.Get("done"), query.Get("seal")) != nil {
		return ""
	}
	switch query.Get("done") {
	case accountEnd:
		return "The sign-in has ended."
	case accountLost:
		return "The phone is signed out, and so is everything it approved."
	case accountOthers:
		return "All other sign-ins have ended."
	case accountWithdraw:
		return "The permission is withdrawn, and what came of it has ended."
	}
	return ""
}

// accountReader reads what one account page shows.
type accountReader struct {
	p       *Provider
	b       *browser
	address netip.Addr
	name    clientNamer
	// stored are the person's sign-ins, lasting those that last, apps the clients of each.
	stored, lasting []*storage.Session
	apps            map[string][]sessionClient
}

func (a *accountReader) form(do, target string) (accountForm, error) {
	csrf, err := a.p.sealForm(a.b, purposeAccount, do+" "+target)
	return accountForm{Action: a.p.pathOf(routeAccount), Do: do, Target: target, CSRF: csrf}, err
}

// readApps names the clients that took part in each sign-in.
func (a *accountReader) readApps(ctx context.Context) error {
	for _, s := range a.lasting {
		ids, err := a.p.config.Store.SessionClients(ctx, s.ID)
		if err != nil {
			return err
		}
		for _, id := range ids {
			client, err := a.name(ctx, id)
			if err != nil {
				return err
			}
			a.apps[s.ID] = append(a.apps[s.ID], client)
		}
	}
	return nil
}

func (a *accountReader) signIns(ctx context.Context) ([]accountSignIn, error) {
	list := make([]accountSignIn, 0, len(a.lasting))
	for _, s := range a.lasting {
		item := accountSignIn{
			Title: s.Device, How: "With your password", At: accountTime{s.CreatedAt},
			This: s.ID == a.b.session.ID, New: a.p.isNew(s, a.b.session.ID),
		}
		if s.QRBorn {
			client, err := a.name(ctx, s.ClientID)
			if err != nil {
				return nil, err
			}
			item.Title, item.Device, item.How = client.Name, s.Device, "Approved in a browser"
		}
		if s.ApproverID != "" {
			approver, err := a.name(ctx, s.ApproverID)
			if err != nil {
				return nil, err
			}
			item.How, item.By = "Approved with", approver.Name
		}
		for _, app := range a.apps[s.ID] {
			if app.ID != s.ClientID {
				item.Apps = append(item.Apps, app.Name)
			}
		}
		if qr.Near(a.address, s.Address) {
			item.Address = s.Address
		}
		item.Title = cmp.Or(item.Title, "An unknown device")
		if !item.This {
			end, err := a.form(accountEnd, s.ID)
			if err != nil {
				return nil, err
			}
			item.End = &end
		}
		list = append(list, item)
	}
	return list, nil
}

// phones lists what approves: sign-ins that a phone app uses, and whatever approved one that
// lasts, though its own has ended. This browser is not among them: it is no lost phone.
func (a *accountReader) phones(ctx context.Context) ([]accountPhone, error) {
	var list []accountPhone
	seen := sameBrowser(a.stored, a.b.session.ID)
	for _, s := range a.lasting {
		sid, approver := s.ID, s.ApproverID
		if i := slices.IndexFunc(a.apps[s.ID], func(c sessionClient) bool { return c.approver }); i >= 0 {
			approver = a.apps[s.ID][i].ID
		} else if sid = s.ParentID; !s.QRBorn {
			continue
		}
		if seen[sid] {
			continue
		}
		phone, err := a.phone(ctx, sid, approver, seen)
		if err != nil {
			return nil, err
		}
		list = append(list, phone)
	}
	return list, nil
}

// phone describes the phone that has the sign-in sid, and notes its other ones as seen.
func (a *accountReader) phone(ctx context.Context, sid, approver string, seen map[string]bool) (accountPhone, error) {
	phone := accountPhone{Title: "A browser"}
	own := sameBrowser(a.stored, sid)
	for id := range own {
		seen[id] = true
	}
	for _, s := range a.stored {
		if own[s.ID] && phone.At.IsZero() {
			phone.Device, phone.At = s.Device, accountTime{s.CreatedAt}
		}
	}
	for _, s := range a.lasting {
		if own[s.ParentID] {
			phone.Approved++
		}
	}
	if approver != "" {
		client, err := a.name(ctx, approver)
		if err != nil {
			return phone, err
		}
		phone.Title = client.Name
	}
	var err error
	phone.Lost, err = a.form(accountLost, sid)
	return phone, err
}

func (a *accountReader) consents(ctx context.Context) ([]accountConsent, error) {
	stored, err := a.p.config.Store.ConsentsBySubject(ctx, a.b.session.Subject)
	if err != nil {
		return nil, err
	}
	list := make([]accountConsent, 0, len(stored))
	for _, c := range stored {
		client, err := a.name(ctx, c.ClientID)
		if err != nil {
			return nil, err
		}
		item := accountConsent{Client: client.Name, Resources: c.Resources, At: accountTime{c.At}}
		for _, scope := range c.Scopes {
			item.Scopes = append(item.Scopes, cmp.Or(scopeText(scope), scope))
		}
		if item.Withdraw, err = a.form(accountWithdraw, c.ClientID); err != nil {
			return nil, err
		}
		list = append(list, item)
	}
	return list, nil
}
