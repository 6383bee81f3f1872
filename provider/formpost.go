package provider

import (
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// formPostView is the page that carries an answer to the client's server.
type formPostView struct {
	Action template.URL
	Client string
	Fields []formField
	Script string
}

type formField struct{ Name, Value string }

// postBack answers by a form that the browser sends to the client (OAuth 2.0 Form Post Response
// Mode §2): a script of ours sends it, or the person does. The policy lets the form go to the
// origin of the redirect URI and nowhere else, not even back to us.
func (p *Provider) postBack(w http.ResponseWriter, r *http.Request, req *authorizeRequest, answer url.Values) {
	v := formPostView{
		// The template would refuse the scheme of a native app; safeRedirect has judged it.
		Action: template.URL(req.redirect.String()), //nolint:gosec // G203: a registered redirect URI.
		Client: clientName(req),
		Script: p.pathOf(routeSubmit),
	}
	for name, values := range answer {
		v.Fields = append(v.Fields, formField{name, values[0]})
	}
	slices.SortFunc(v.Fields, func(a, b formField) int { return strings.Compare(a.Name, b.Name) })
	p.renderUnder(w, r, http.StatusOK, "formpost", v, pagePolicy+scriptPolicy+"; form-action "+formTarget(req.redirect))
}
