package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/storage"
)

// longestMaxAge bounds default_max_age: who must sign in once in a hundred years need not.
const longestMaxAge = 100 * year

// responseTypes are those that there are, as storage.Client spells them.
func responseTypes() []string {
	return []string{"code", "id_token", "id_token token", "code id_token", "code token", "code id_token token"}
}

// spelt puts the words of a response type, which stand in any order, into ours.
func spelt(responseType string) string {
	words := strings.Fields(responseType)
	slices.Sort(words)
	return strings.Join(words, " ")
}

func (c *clientConfig) responseFaults(server *configFile) []fault {
	var found faults
	var kinds []string
	for i, given := range c.ResponseTypes {
		at, kind := fmt.Sprintf("response_types[%d]", i), spelt(given)
		switch {
		case !slices.Contains(responseTypes(), kind):
			found.add(at, fmt.Sprintf("unknown response type %q; known are %s", given, strings.Join(responseTypes(), ", ")))
		case slices.Contains(kinds, kind):
			found.add(at, fmt.Sprintf("%q stands here twice", kind))
		default:
			found = append(found, c.responseTypeFaults(at, kind, server)...)
			kinds = append(kinds, kind)
		}
	}
	if len(kinds) < len(c.ResponseTypes) {
		return found
	}
	// OpenID Connect Registration §2 asks for it beside authorization_code where a code comes with a
	// token too; it opens nothing that the response types do not.
	found.when(c.grants("implicit") && !slices.ContainsFunc(kinds, func(kind string) bool { return kind != "code" }), "grant_types",
		"implicit needs response_types with id_token or token")
	found.when(len(kinds) > 0 && c.grants("authorization_code") && !slices.ContainsFunc(kinds, withCode), "grant_types",
		"authorization_code needs response_types with code")
	return found
}

// withCode reports whether a code is in the answer of a response type.
func withCode(kind string) bool { return strings.HasPrefix(kind, "code") }

func (c *clientConfig) responseTypeFaults(at, kind string, server *configFile) []fault {
	var found faults
	needs, grant, on := "", "authorization_code", true
	switch {
	case kind == "code":
	case withCode(kind):
		needs, on = "hybrid", server == nil || server.Hybrid
	default:
		needs, grant, on = "implicit", "implicit", server == nil || server.Implicit
	}
	words := strings.Fields(kind)
	found.when(!on, at, fmt.Sprintf("response type %q is off until the file says %s: true", kind, needs))
	// Without grant_types a client has authorization_code.
	found.when(!c.grants(grant) && (len(c.GrantTypes) > 0 || grant == "implicit"), at, fmt.Sprintf("response type %q needs the grant type %s", kind, grant))
	found.when(slices.Contains(words, "id_token") && !slices.Contains(c.Scopes, "openid"), at, fmt.Sprintf("response type %q needs the scope openid", kind))
	found.when(slices.Contains(words, "token") && c.RequireDPoP, "require_dpop",
		fmt.Sprintf("require_dpop cannot hold with response type %q, whose token comes through the browser and is bound to no key", kind))
	return found
}

// requestFaults are those of request objects, and of what stands in place of parameters.
func (c *clientConfig) requestFaults(server *configFile) []fault {
	var found faults
	_, keys := c.keys()
	for _, of := range []struct {
		key, needs string
		used, off  bool
	}{
		{"request_object_alg", "request_objects", c.RequestObjectAlg != "", server != nil && !server.RequestObjects},
		{"request_uris", "request_uris", len(c.RequestURIs) > 0, server != nil && !server.RequestURIs},
		{"require_request_object", "request_objects", c.RequireRequestObject, server != nil && !server.RequestObjects},
	} {
		found.when(of.used && !keys, of.key, of.key+" needs jwks or jwks_uri, the keys that request objects are signed with")
		found.when(of.used && of.off, of.key, fmt.Sprintf("%s is off until the file says %s: true", of.key, of.needs))
	}
	for i, raw := range c.RequestURIs {
		// The fragment may be the hash of what is there (OpenID Connect Core §6.2).
		address, _, _ := strings.Cut(raw, "#")
		found.when(!isAddress(address), fmt.Sprintf("request_uris[%d]", i),
			fmt.Sprintf("%.80q cannot be read: it must be https with a plain host name, without user or space", raw))
	}
	if age := c.DefaultMaxAge; age != nil {
		found.when(*age < 0 || *age > longestMaxAge || *age%time.Second != 0, "default_max_age",
			fmt.Sprintf("default_max_age must be from 0s to %s, in whole seconds", shortTime(longestMaxAge)))
	}
	found.address("initiate_login_uri", c.InitiateLoginURI)
	return found
}

func (c *clientConfig) resourceFaults() []fault {
	var found faults
	for _, of := range []struct {
		key  string
		list []string
	}{{"resources", c.Resources}, {"serves", c.Serves}} {
		for i, raw := range of.list {
			u, err := url.Parse(raw)
			found.when(err != nil || !u.IsAbs() || strings.Contains(raw, "#"), fmt.Sprintf("%s[%d]", of.key, i),
				fmt.Sprintf("%.80q is no resource: it must be an absolute URI without #", raw))
		}
	}
	for i, raw := range c.Resources {
		found.when(c.Approver && !slices.Contains(c.SharedAudiences, raw), fmt.Sprintf("resources[%d]", i),
			fmt.Sprintf("%.80q must stand in shared_audiences too, because this client is an approver", raw))
	}
	found.when(len(c.Serves) > 0 && c.public(), "serves", "serves needs a secret or private_key_jwt: introspection answers nobody else")
	return found
}

func (c *clientConfig) subjectFaults(server *configFile) []fault {
	var found faults
	pairwise := c.SubjectType == "pairwise"
	found.when(pairwise && server != nil && !server.Pairwise, "subject_type", "subject_type: pairwise is off until the file says pairwise: true")
	found.when(pairwise && c.sector() == "", "subject_type", "pairwise needs a sector_identifier_uri, unless all redirect_uris have one host")
	found.when(!pairwise && c.SectorIdentifierURI != "", "sector_identifier_uri", "sector_identifier_uri is for subject_type: pairwise")
	found.address("sector_identifier_uri", c.SectorIdentifierURI)
	return found
}

// sector is the host whose clients share pairwise subjects; empty when there is none.
func (c *clientConfig) sector() string {
	host, _ := provider.SectorOf(&storage.Client{RedirectURIs: c.RedirectURIs, SectorIdentifierURI: c.SectorIdentifierURI})
	return host
}

// describe adds to the record what these keys say.
func (c *clientConfig) describe(record *storage.Client) {
	record.AuthMethod, record.AuthAlg, record.JWKSURI = c.AuthMethod, c.AuthAlg, c.JWKSURI
	if c.AssertionAudience == storage.AudienceEndpoint {
		record.AssertionAudience = storage.AudienceEndpoint
	}
	if len(c.JWKS) > 0 {
		// keyFaults has refused what cannot be written.
		record.JWKS, _ = json.Marshal(c.JWKS)
	}
	record.RequirePAR, record.RequireDPoP, record.JWTAccessTokens = c.RequirePAR, c.RequireDPoP, c.AccessTokenFormat == "jwt"
	record.Resources, record.Serves, record.UserinfoAlg = c.Resources, c.Serves, c.UserinfoAlg
	record.RequestObjectAlg, record.RequestURIs, record.RequireRequestObject = c.RequestObjectAlg, c.RequestURIs, c.RequireRequestObject
	for _, given := range c.ResponseTypes {
		record.ResponseTypes = append(record.ResponseTypes, spelt(given))
	}
	record.ApplicationType, record.InitiateLoginURI, record.Contacts = c.ApplicationType, c.InitiateLoginURI, c.Contacts
	if c.SubjectType == "pairwise" {
		record.Pairwise, record.Sector, record.SectorIdentifierURI = true, c.sector(), c.SectorIdentifierURI
	}
	if c.DefaultMaxAge != nil {
		seconds := int64(*c.DefaultMaxAge / time.Second)
		record.DefaultMaxAge = &seconds
	}
	record.DefaultACRValues = c.DefaultACRValues
}
