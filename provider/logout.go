package provider

import "net/http"

const purposeLogout = "logout"

// logout is POST /logout: it ends this browser's sign-in with every token that came of it.
func (p *Provider) logout(w http.ResponseWriter, r *http.Request) {
	b, err := p.browserOf(w, r)
	if err == nil {
		err = p.checkForm(b, purposeLogout, "", r.PostForm.Get("csrf"))
	}
	if err == nil && b.session != nil {
		if err = p.endSignIn(r.Context(), "", b.session.ID); err != nil {
			err = unavailable(err)
		}
	}
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	p.setCookie(w, sessionCookie, "")
	p.render(w, r, http.StatusOK, "result", resultView{Heading: "You are signed out", Sentence: "You can close this page."})
}
