package provider

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

const (
	purposeClaim  = "device-claim"
	purposeDecide = "device-decide"
	// longestUserCode is how much is carried of what a person typed or a link said.
	longestUserCode = 32
)

// deviceView is the page that takes a user code.
type deviceView struct {
	Action, CSRF       string
	Logout, LogoutCSRF string
	Account            string
	UserCode, Fault    string
	Name               string
}

// cardView is the approval card.
type cardView struct {
	Action, CSRF, Card        string
	Fault                     string
	Context                   qr.Context
	About                     clientView
	Verified, Where, Asked    string
	Known, Consequence        string
	Scopes                    []scopeTick
	Warnings                  []string
	AskCheckCode, AskUserCode bool
}

// scopeTick is a scope on the card; the person may leave it out unless it is Always. Each has a
// field of its own, because a form that says anything twice is refused.
type scopeTick struct {
	Field, Text    string
	Ticked, Always bool
}

// resultView is the page at the end.
type resultView struct {
	Heading, Sentence, Again string
}

// device is GET, HEAD and POST /device: the authorization device of a person without the app. It
// acts by browser session and form token and refuses a sign-in that was itself born of a QR
// approval (protocol §6, §8).
func (p *Provider) device(w http.ResponseWriter, r *http.Request) {
	b, err := p.browserOf(w, r)
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	if b.session == nil || b.session.QRBorn {
		p.deviceSignIn(w, r, b)
		return
	}
	switch {
	case r.Method != http.MethodPost:
		p.devicePage(w, r, b, r.URL.Query().Get("user_code"), "")
	case r.PostForm.Get("step") == "decide":
		p.deviceDecide(w, r, b)
	default:
		p.deviceClaim(w, r, b)
	}
}

func (p *Provider) deviceSignIn(w http.ResponseWriter, r *http.Request, b *browser) {
	next := p.pathOf(routeDevice)
	if code := r.FormValue("user_code"); code != "" && len(code) <= longestUserCode {
		next += "?" + url.Values{"user_code": {code}}.Encode()
	}
	p.approverSignIn(w, r, b, next)
}

// approverSignIn asks for a sign-in that may approve, and says why the one there is may not.
func (p *Provider) approverSignIn(w http.ResponseWriter, r *http.Request, b *browser, next string) {
	v := signInView{Next: next}
	if b.session != nil {
		v.Notice = "You are signed in here by another device. To connect devices, sign in with your password."
	}
	p.signInPage(w, r, b, v)
}

// accountPart is the foot of a page that says who is signed in and offers to sign out.
type accountPart struct{ csrf, name string }

func (p *Provider) accountForm(r *http.Request, b *browser) (accountPart, error) {
	csrf, err := p.sealForm(b, purposeLogout, "")
	if err != nil {
		return accountPart{}, err
	}
	user, err := p.config.Store.User(r.Context(), b.session.Subject)
	if err != nil {
		return accountPart{}, unavailable(err)
	}
	return accountPart{csrf: csrf, name: user.Login}, nil
}

// devicePage shows the form; a code from the query is only filled in.
func (p *Provider) devicePage(w http.ResponseWriter, r *http.Request, b *browser, code, fault string) {
	claim, err := p.sealForm(b, purposeClaim, "")
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	account, err := p.accountForm(r, b)
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	p.render(w, r, http.StatusOK, "device", deviceView{
		Account: p.pathOf(routeAccount), Action: p.pathOf(routeDevice), CSRF: claim, Logout: p.pathOf(routeLogout), LogoutCSRF: account.csrf,
		// Cutting must not leave half a character.
		UserCode: strings.ToValidUTF8(code[:min(len(code), longestUserCode)], ""), Fault: fault, Name: account.name,
	})
}

// approver is the person at this browser; no client stands between.
func (p *Provider) approver(r *http.Request, s *storage.Session) qr.Approver {
	return qr.Approver{
		Subject: s.Subject, SessionID: s.ID, AuthTime: s.AuthTime, AMR: s.AMR, ACR: s.ACR,
		Address: p.clientAddress(r),
	}
}

// deviceClaim claims the session of a typed code and shows who asks.
func (p *Provider) deviceClaim(w http.ResponseWriter, r *http.Request, b *browser) {
	if err := p.checkForm(b, purposeClaim, "", r.PostForm.Get("csrf")); err != nil {
		p.errorPage(w, r, err)
		return
	}
	code := r.PostForm.Get("user_code")
	if code == "" {
		p.devicePage(w, r, b, "", "Enter the code from the other screen.")
		return
	}
	p.claim(w, r, b, qr.ScanRequest{UserCode: code, Entry: "typed"})
}

// claim claims for the person at this browser and shows who asks.
func (p *Provider) claim(w http.ResponseWriter, r *http.Request, b *browser, scan qr.ScanRequest) {
	answer, err := p.qr.Claim(r.Context(), p.approver(r, b.session), scan)
	if err != nil {
		p.deviceProblem(w, r, b, scan.UserCode, err)
		return
	}
	card, err := json.Marshal(answer)
	if err != nil {
		p.errorPage(w, r, serverError(err))
		return
	}
	p.cardPage(w, r, b, base64.RawURLEncoding.EncodeToString(card), answer, "")
}

// cardPage shows the approval card. The answer of the claim travels in the form, sealed: a
// wrong code shows the same card again without asking for a second claim.
func (p *Provider) cardPage(w http.ResponseWriter, r *http.Request, b *browser, card string, a *qr.ScanAnswer, fault string) {
	token, err := p.sealForm(b, purposeDecide, card)
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	v := cardView{
		Action: p.pathOf(routeDevice), CSRF: token, Card: card, Fault: fault, Context: a.Context,
		Verified: verifiedText(a.Context.Client.Verified), Known: knownText(a.Context.Device.Known),
		Where: p.whereText(r, a.Context.Network), Asked: p.askedText(r, a.Context.AgeSeconds),
		Consequence: p.consequence(r, a.Context), AskCheckCode: a.CheckCodeRequired, AskUserCode: a.UserCodeRequired,
		Scopes: scopeTicks(a.Context.Scopes, r.PostForm),
	}
	for _, id := range a.Context.Warnings {
		v.Warnings = append(v.Warnings, warningText(id))
	}
	if v.About, err = p.askingClient(r, a.Context.Client); err != nil {
		p.errorPage(w, r, err)
		return
	}
	p.renderUnder(w, r, http.StatusOK, "card", v, v.About.imagesOf(pagePolicy)+formPolicy(nil))
}

// fieldScope stands before a scope's name in the fields of the card.
const fieldScope = "scope."

// scopeTicks lists the scopes with a tick each; a card that is shown again keeps what the person
// has left out. Who somebody is cannot be left out of a sign-in.
func scopeTicks(scopes []qr.ContextScope, form url.Values) []scopeTick {
	ticks := make([]scopeTick, len(scopes))
	for i, scope := range scopes {
		always := scope.Name == "openid"
		ticks[i] = scopeTick{
			Field: fieldScope + scope.Name, Text: cmp.Or(scope.Text, scope.Name), Always: always,
			Ticked: always || form.Get("step") != "decide" || form.Has(fieldScope+scope.Name),
		}
	}
	return ticks
}

// tickedScope is what the person has left of the scopes that the card showed.
func tickedScope(scopes []qr.ContextScope, form url.Values) string {
	var left []string
	for i, tick := range scopeTicks(scopes, form) {
		if tick.Ticked {
			left = append(left, scopes[i].Name)
		}
	}
	return strings.Join(left, " ")
}

// askingClient is what the card shows of the client. Any program can ask in the name of a client
// that nobody has verified: the card says so, and must not lend it the looks of the real one.
func (p *Provider) askingClient(r *http.Request, c qr.ContextClient) (clientView, error) {
	client, err := p.tokens.Client(r.Context(), c.ID)
	switch {
	case errors.Is(err, fosite.ErrNotFound):
		return clientView{}, nil // the decision will say that it is gone
	case err != nil:
		return clientView{}, unavailable(err)
	}
	v := viewClient(client.Client)
	if c.Verified == "none" {
		v.Logo = ""
	}
	return v, nil
}

// deviceDecide takes the person's answer.
func (p *Provider) deviceDecide(w http.ResponseWriter, r *http.Request, b *browser) {
	values := r.PostForm
	card := values.Get("card")
	if err := p.checkForm(b, purposeDecide, card, values.Get("csrf")); err != nil {
		p.errorPage(w, r, err)
		return
	}
	var claim qr.ScanAnswer
	raw, err := base64.RawURLEncoding.DecodeString(card)
	if err == nil {
		err = json.Unmarshal(raw, &claim)
	}
	if err != nil || !slices.Contains([]string{"approve", "deny", "report"}, values.Get("decision")) {
		p.errorPage(w, r, invalidRequest("The form is malformed."))
		return
	}
	decision := qr.DecisionRequest{ConfirmHandle: claim.ConfirmHandle, Decision: values.Get("decision"), ContextDigest: claim.ContextDigest}
	if decision.Decision == "approve" {
		decision.CheckCode, decision.UserCode = strings.TrimSpace(values.Get("check_code")), values.Get("user_code")
		scope := tickedScope(claim.Context.Scopes, values)
		decision.Scope = &scope
	}
	answer, err := p.qr.Decide(r.Context(), p.approver(r, b.session), decision)
	var problem *qr.Problem
	switch {
	case err == nil:
		p.render(w, r, http.StatusOK, "result", p.deviceResult(answer.State, decision.Decision, claim.Context.Door))
	case errors.As(err, &problem) && (problem.Code == "check_code_mismatch" || problem.Code == "invalid_request") && (problem.TriesLeft == nil || *problem.TriesLeft > 0):
		p.cardPage(w, r, b, card, &claim, p.codeFault(r, &claim, problem))
	default:
		p.deviceProblem(w, r, b, "", err)
	}
}

// deviceResult says what happens next: our own page asks once more, a device of the direct door
// goes on by itself, and what it offers then is its own affair.
func (p *Provider) deviceResult(state, decision, door string) resultView {
	v := resultView{Again: p.pathOf(routeDevice)}
	switch {
	case state == "approved" && door == "hosted":
		v.Heading, v.Sentence = "Approved", "On the other screen, choose \"Continue\" if it shows your name, and \"Not me\" if it shows another."
	case state == "approved":
		v.Heading, v.Sentence = "Approved", "The other device is signed in within seconds. If it shows another name than yours, sign out there."
	case decision == "report":
		v.Heading, v.Sentence = "Denied and reported", "Nobody was signed in. What this asker had got from you before was taken back."
	default:
		v.Heading, v.Sentence = "Denied", "Nobody was signed in."
	}
	return v
}

// deviceProblem turns a refusal of the grant into a page; the form again where trying again
// makes sense.
func (p *Provider) deviceProblem(w http.ResponseWriter, r *http.Request, b *browser, code string, err error) {
	var problem *qr.Problem
	if !errors.As(err, &problem) {
		p.errorPage(w, r, err)
		return
	}
	if problem.Status == http.StatusTooManyRequests {
		p.errorPage(w, r, tooManyTries(problem))
		return
	}
	p.devicePage(w, r, b, code, problemText(problem.Code))
}
