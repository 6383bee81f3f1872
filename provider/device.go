package provider

import (
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
	Consequence               string
	Warnings                  []string
	AskCheckCode, AskUserCode bool
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
	v := signInView{Next: p.pathOf(routeDevice)}
	if code := r.FormValue("user_code"); code != "" && len(code) <= 32 {
		v.Next += "?" + url.Values{"user_code": {code}}.Encode()
	}
	if b.session != nil {
		v.Notice = "You are signed in here by another device. To connect devices, sign in with your password."
	}
	p.signInPage(w, r, b, v)
}

// devicePage shows the form; a code from the query is only filled in.
func (p *Provider) devicePage(w http.ResponseWriter, r *http.Request, b *browser, code, fault string) {
	claim, err := p.sealForm(b, purposeClaim, "")
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	logout, err := p.sealForm(b, purposeLogout, "")
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	user, err := p.config.Store.User(r.Context(), b.session.Subject)
	if err != nil {
		p.errorPage(w, r, unavailable(err))
		return
	}
	p.render(w, r, http.StatusOK, "device", deviceView{
		Account: p.pathOf(routeAccount), Action: p.pathOf(routeDevice), CSRF: claim, Logout: p.pathOf(routeLogout), LogoutCSRF: logout,
		// Cutting must not leave half a character.
		UserCode: strings.ToValidUTF8(code[:min(len(code), 32)], ""), Fault: fault, Name: user.Login,
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
	answer, err := p.qr.Claim(r.Context(), p.approver(r, b.session), qr.ScanRequest{UserCode: code, Entry: "typed"})
	if err != nil {
		p.deviceProblem(w, r, b, code, err)
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
		Verified: verifiedText(a.Context.Client.Verified), Where: p.whereText(r, a.Context.Network), Asked: p.askedText(r, a.Context.AgeSeconds),
		Consequence: p.consequence(r, a.Context), AskCheckCode: a.CheckCodeRequired, AskUserCode: a.UserCodeRequired,
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
		decision.CheckCode, decision.UserCode = values.Get("check_code"), values.Get("user_code")
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
		p.errorPage(w, r, &oauthError{status: problem.Status, code: problem.Code, description: "There were too many tries. Wait a few minutes."})
		return
	}
	p.devicePage(w, r, b, code, problemText(problem.Code))
}

// codeFault calls the two digits a number and the user code a code, as every page does.
func (p *Provider) codeFault(r *http.Request, claim *qr.ScanAnswer, problem *qr.Problem) string {
	enter, wrong, left := "Enter the number from the other screen.", "The number is wrong.", "The number is wrong. Tries left: %d"
	if claim.UserCodeRequired {
		enter, wrong, left = "Enter the code from the other screen.", "The code is wrong.", "The code is wrong. Tries left: %d"
	}
	switch {
	case problem.Code == "invalid_request":
		return enter
	case problem.TriesLeft == nil:
		return wrong
	}
	return p.say(r, left, *problem.TriesLeft)
}

func problemText(code string) string {
	switch code {
	case "unknown_code", "not_found":
		return "The code is not known or has expired. Check it, or start again on the other device."
	case "gone":
		return "This sign-in is over. Start again on the other device."
	case "check_code_mismatch":
		return "That is not what the other screen showed. Start again on the other device."
	case "already_claimed", "already_decided":
		return "This sign-in is already being handled."
	case "context_changed":
		return "The request has changed since it was shown. Enter the code again."
	case "wrong_account":
		return "This sign-in is for another account."
	case "insufficient_user_authentication":
		return "This sign-in asks for a fresh sign-in here. Sign out and in again first."
	}
	return "This did not work. Start again on the other device."
}

func verifiedText(how string) string {
	switch how {
	case "redirect":
		return "address verified"
	case "attested":
		return "verified"
	}
	return "name not verified"
}

// consequence says in the person's language what the context says for apps.
func (p *Provider) consequence(r *http.Request, c qr.Context) string {
	text := p.say(r, "Another device will be signed in to %s as you.", c.Client.Name)
	if c.RelyingParty != nil {
		text += " " + p.say(r, "There the address bar must show %s.", c.Issuer)
	}
	return text
}

func (p *Provider) whereText(r *http.Request, n qr.ContextNetwork) string {
	text := n.Name
	for _, part := range []string{n.City, n.Address} {
		if part != "" && text != "" {
			text += ", "
		}
		text += part
	}
	switch n.Distance {
	case "near":
		return p.say(r, "%s (near you)", text)
	case "far":
		return p.say(r, "%s (far from you)", text)
	}
	if text == "" {
		return "not known"
	}
	return text
}

func (p *Provider) askedText(r *http.Request, seconds int64) string {
	switch {
	case seconds < 60:
		return "less than a minute ago"
	case seconds < 120:
		return "a minute ago"
	}
	return p.say(r, "%d minutes ago", seconds/60)
}

func warningText(id string) string {
	switch id {
	case qr.WarnUnverifiedClient:
		return "Nobody has verified the name above. Anybody could use it."
	case qr.WarnTypedCode:
		return "You typed this code. Nobody who helps you needs you to type a code."
	case qr.WarnLink:
		return "This code came by a link. If somebody sent it to you, deny."
	}
	return id
}
