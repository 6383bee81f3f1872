package provider

import (
	"net/http"

	"github.com/qrgrant/qrgrant/provider/qr"
)

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
	case "stale_frame":
		return "The QR code on the screen has changed since. Scan it again."
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

// tooManyTries is the page of a limit, which waiting opens again.
func tooManyTries(problem *qr.Problem) *oauthError {
	sentence := "There were too many tries. Wait a few minutes."
	if problem.Code == "reported" {
		sentence = "You reported this device. It cannot ask you again yet."
	}
	return &oauthError{status: problem.Status, code: problem.Code, description: sentence, wait: problem.RetryAfter}
}

// knownText says whether this person has approved for the device before, where that is known.
func knownText(known string) string {
	switch known {
	case "known":
		return "You have signed in on this device before."
	case "new":
		return "You have not signed in on this device before."
	}
	return ""
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
