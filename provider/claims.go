package provider

import (
	"encoding/json"
	"slices"

	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/storage"
)

// scopeClaims are the claims each scope asks for (OpenID Connect Core §5.4).
func scopeClaims(scope string) []string {
	switch scope {
	case "profile":
		return []string{
			"name", "family_name", "given_name", "middle_name", "nickname", "preferred_username", "profile",
			"picture", "website", "gender", "birthdate", "zoneinfo", "locale", "updated_at",
		}
	case "email":
		return []string{"email", "email_verified"}
	case "address":
		return []string{"address"}
	case "phone":
		return []string{"phone_number", "phone_number_verified"}
	}
	return nil
}

// claimScopes are the scopes with claims, in the order pages show them.
func claimScopes() []string { return []string{"profile", "email", "address", "phone"} }

// scopeOf returns the scope that asks for a claim; empty for one that is none of a person's.
func scopeOf(claim string) string {
	for _, scope := range claimScopes() {
		if slices.Contains(scopeClaims(scope), claim) {
			return scope
		}
	}
	return ""
}

// supportedClaims are those of the ID token, then those of the scopes.
func supportedClaims() []string {
	claims := []string{"iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "acr", "amr", "sid", "at_hash", "jti"}
	for _, scope := range claimScopes() {
		claims = append(claims, scopeClaims(scope)...)
	}
	return claims
}

// claimsOf selects a person's claims by scope and by name; sub is ours, whatever the record
// says.
func claimsOf(user *storage.User, scopes, names []string) map[string]any {
	claims := make(map[string]any)
	for _, scope := range scopes {
		names = append(slices.Clip(names), scopeClaims(scope)...)
	}
	for _, name := range names {
		if v, ok := user.Claims[name]; ok {
			claims[name] = v
		}
	}
	claims["sub"] = user.Subject
	return claims
}

// claimsRequest is the claims parameter (OpenID Connect Core §5.5), reduced to what has an
// effect here. Essential and voluntary claims get the same answer: what is known of the person.
type claimsRequest struct {
	// userinfo and idToken are names of a person's claims.
	userinfo, idToken []string
	// subjects are the people who will do, acr the contexts, where asked for as essential.
	subjects, acr oneOf
}

// claimAsked is what the parameter may say about one claim.
type claimAsked struct {
	Essential bool  `json:"essential"`
	Value     any   `json:"value"`
	Values    []any `json:"values"`
}

// oneOf are the texts that will do. The zero value allows every text, and one that is limited to
// none allows nothing: what cannot be met must not pass for what was not asked.
type oneOf struct {
	limited bool
	texts   []string
}

func (o oneOf) allows(text string) bool { return !o.limited || slices.Contains(o.texts, text) }

// and is what both allow.
func (o oneOf) and(other oneOf) oneOf {
	if !o.limited {
		return other
	}
	return oneOf{limited: true, texts: slices.DeleteFunc(slices.Clone(o.texts), func(text string) bool { return !other.allows(text) })}
}

// wanted are the values that will do. A value that is no string is none of ours.
func (c *claimAsked) wanted() oneOf {
	var wanted oneOf
	if c == nil {
		return wanted
	}
	limit := func(values ...any) {
		among := oneOf{limited: true}
		for _, v := range values {
			if text, ok := v.(string); ok {
				among.texts = append(among.texts, text)
			}
		}
		wanted = wanted.and(among)
	}
	if c.Value != nil {
		limit(c.Value)
	}
	if c.Values != nil {
		limit(c.Values...)
	}
	return wanted
}

// parseClaims reads the parameter. Unknown members and claims are ignored (§5.5); a claim whose
// scope the client did not register is treated as unknown, or the scopes would bound nothing.
func parseClaims(raw string, client fositestore.Client) (claimsRequest, error) {
	var asked struct {
		Userinfo map[string]*claimAsked `json:"userinfo"`
		IDToken  map[string]*claimAsked `json:"id_token"`
	}
	if raw == "" {
		return claimsRequest{}, nil
	}
	if raw[0] != '{' || json.Unmarshal([]byte(raw), &asked) != nil {
		return claimsRequest{}, invalidRequest("The claims parameter is malformed.")
	}
	known := func(members map[string]*claimAsked) []string {
		var names []string
		for name := range members {
			if scope := scopeOf(name); scope != "" && slices.Contains(client.Scopes, scope) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	}
	c := claimsRequest{userinfo: known(asked.Userinfo), idToken: known(asked.IDToken)}
	c.subjects = asked.IDToken["sub"].wanted().and(asked.Userinfo["sub"].wanted())
	if acr := asked.IDToken["acr"]; acr != nil && acr.Essential {
		c.acr = acr.wanted()
	}
	return c, nil
}

// scopes are the given scopes and those that the claims asked for by name belong to: what the
// person is asked about, and what bounds a sign-in born of a QR approval.
func (c *claimsRequest) scopes(scopes []string) []string {
	all := slices.Clone(scopes)
	for _, name := range append(slices.Clip(c.userinfo), c.idToken...) {
		if scope := scopeOf(name); !slices.Contains(all, scope) {
			all = append(all, scope)
		}
	}
	return all
}

// without leaves out the claims of the scopes that are withheld.
func (c *claimsRequest) without(withheld func(scope string) bool) claimsRequest {
	of := func(name string) bool { return withheld(scopeOf(name)) }
	return claimsRequest{
		userinfo: slices.DeleteFunc(slices.Clone(c.userinfo), of), idToken: slices.DeleteFunc(slices.Clone(c.idToken), of),
		subjects: c.subjects, acr: c.acr,
	}
}

// meets reports whether a sign-in is one of those that the claims asked for by value allow
// (§5.5.1, §5.5.1.1). subject is its person as the client knows them.
func (c *claimsRequest) meets(s *storage.Session, subject string) bool {
	return c.subjects.allows(subject) && c.meetsACR(s)
}

func (c *claimsRequest) meetsACR(s *storage.Session) bool {
	return c.acr.allows(s.ACR)
}
