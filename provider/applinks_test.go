package provider_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
)

func linkedApps() provider.AppLinks {
	return provider.AppLinks{
		Apple:   []string{"ABCDE12345.com.example.app", "ABCDE12345.com.example.app-beta"},
		Android: []provider.AndroidApp{{Package: "com.example.app", SHA256: []string{fingerprint()}}},
	}
}

// fingerprint is a well-formed one.
func fingerprint() string { return strings.Repeat("0F:", 31) + "A9" }

// Phones look at the root of the host, whatever path the issuer has, and follow no redirect.
func TestAppLinkFilesStandAtTheRootOfTheHost(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"", "/tenant"} {
		s := providertest.NewServer(t, providertest.Options{Path: path, Change: func(c *provider.Config) { c.AppLinks = linkedApps() }})
		for file, want := range map[string]string{
			"/.well-known/apple-app-site-association": `{"applinks":{"details":[{"appIDs":["ABCDE12345.com.example.app","ABCDE12345.com.example.app-beta"],"components":[{"/":"` + path + `/Q"}]}]}}`,
			"/.well-known/assetlinks.json":            `[{"relation":["delegate_permission/common.handle_all_urls"],"target":{"namespace":"android_app","package_name":"com.example.app","sha256_cert_fingerprints":["` + fingerprint() + `"]}}]`,
		} {
			reply := s.Get(t.Context(), s.Client(), s.HTTP.URL+file)
			if reply.Status != http.StatusOK || reply.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s%s: %d %v", path, file, reply.Status, reply.Header)
			}
			if diff := cmp.Diff(want, reply.Body); diff != "" {
				t.Errorf("%s%s: %s", path, file, diff)
			}
		}
	}
}

func TestAppLinkFilesAreAbsentWithoutApps(t *testing.T) {
	t.Parallel()
	one := provider.AppLinks{Apple: linkedApps().Apple}
	for name, row := range map[string]struct {
		links          provider.AppLinks
		apple, android int
	}{
		"none": {provider.AppLinks{}, http.StatusNotFound, http.StatusNotFound}, "Apple only": {one, http.StatusOK, http.StatusNotFound},
	} {
		s := providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) { c.AppLinks = row.links }})
		if got := s.Get(t.Context(), s.Client(), "/.well-known/apple-app-site-association").Status; got != row.apple {
			t.Errorf("%s: Apple %d", name, got)
		}
		if got := s.Get(t.Context(), s.Client(), "/.well-known/assetlinks.json").Status; got != row.android {
			t.Errorf("%s: Android %d", name, got)
		}
	}
}

func TestAppLinksAreChecked(t *testing.T) {
	t.Parallel()
	for name, links := range map[string]provider.AppLinks{
		"no team":           {Apple: []string{"com.example.app"}},
		"a short team":      {Apple: []string{"ABC.com.example.app"}},
		"a lower-case team": {Apple: []string{"abcde12345.com.example.app"}},
		"a wildcard":        {Apple: []string{"ABCDE12345.*"}},
		"a line break":      {Apple: []string{"ABCDE12345.com.example.app\n"}},
		"no package":        {Android: []provider.AndroidApp{{SHA256: []string{fingerprint()}}}},
		"one word":          {Android: []provider.AndroidApp{{Package: "app", SHA256: []string{fingerprint()}}}},
		"no fingerprint":    {Android: []provider.AndroidApp{{Package: "com.example.app"}}},
		"a short one":       {Android: []provider.AndroidApp{{Package: "com.example.app", SHA256: []string{"0F:A9"}}}},
		"lower case":        {Android: []provider.AndroidApp{{Package: "com.example.app", SHA256: []string{strings.ToLower(fingerprint())}}}},
		"without colons":    {Android: []provider.AndroidApp{{Package: "com.example.app", SHA256: []string{strings.ReplaceAll(fingerprint(), ":", "")}}}},
	} {
		_, err := provider.New(t.Context(), provider.Config{Issuer: "https://id.example", AppLinks: links})
		if err == nil || !strings.Contains(err.Error(), "Config.AppLinks.") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
