package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// words is a repeatable flag that takes several words at once.
type words []string

// String implements flag.Value.
func (w *words) String() string { return "" }

// Set implements flag.Value.
func (w *words) Set(text string) error {
	*w = append(*w, strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })...)
	return nil
}

const clientAddDetail = `    A secret is made and shown once, unless the client is --public. What a configuration file
    can say beyond these flags, such as qr, is said there.`

func clientAddVerb() verb {
	return verb{
		name: "client add", args: []string{"ID"}, detail: clientAddDetail,
		summary: "adds a client to the database of a server, running or not",
		prepare: func(flags *flag.FlagSet) action {
			var f adminFlags
			f.declare(flags)
			c := clientConfig{}
			flags.StringVar(&c.Name, "name", "", "`NAME` that people are shown")
			flags.StringVar(&c.IDTokenAlg, "id-token-alg", "", "`ALG` of its ID tokens, ES256 or RS256 (default ES256)")
			flags.BoolVar(&c.FirstParty, "first-party", false, "skip the consent page")
			flags.Var((*words)(&c.RedirectURIs), "redirect-uri", "`URL` it may be redirected to; repeatable")
			flags.Var((*words)(&c.GrantTypes), "grant-type", "`GRANT` it may use; repeatable (default authorization_code)")
			flags.Var((*words)(&c.Scopes), "scope", "`SCOPE` it may ask for; repeatable (default openid)")
			flags.StringVar(&c.LogoURI, "logo-uri", "", "`URL` of a picture that people are shown beside its name")
			flags.StringVar(&c.ClientURI, "client-uri", "", "`URL` of its own site")
			flags.StringVar(&c.PolicyURI, "policy-uri", "", "`URL` of what it says about people's data")
			flags.StringVar(&c.TermsURI, "tos-uri", "", "`URL` of its terms of use")
			public := flags.Bool("public", false, "it can keep no secret: an app, or script in a browser")
			return func(ctx context.Context, e env) error {
				c.ID = e.Args[0]
				if len(c.Scopes) == 0 {
					c.Scopes = []string{"openid"}
				}
				secret := ""
				if !*public {
					secret = rand.Text() + rand.Text()
					sum := sha256.Sum256([]byte(secret))
					c.SecretSHA256 = []string{hex.EncodeToString(sum[:])}
				}
				var added adminClient
				if err := f.call(ctx, e, http.MethodPost, "/clients", c, &added); err != nil {
					return err
				}
				fmt.Fprintf(e.Stdout, "added %s\n", printable(added.ID))
				if secret != "" {
					fmt.Fprintf(e.Stdout, "secret %s\n", secret)
				}
				return nil
			}
		},
	}
}

func clientListVerb() verb {
	return listVerb("client list", "lists the clients in the database", "/clients", func(flags *flag.FlagSet) func(io.Writer, adminClient) {
		links := flags.Bool("links", false, "show below each client its logo, site, policy and terms too")
		return func(out io.Writer, c adminClient) {
			kind := "confidential"
			if c.Public {
				kind = "public"
			}
			fmt.Fprintf(out, "%-24s %-12s %-8s %s\n", printable(c.ID), kind, state(c.Disabled), printable(c.Name))
			if *links {
				c.printLinks(out)
			}
		}
	})
}

// printLinks lists what the client has of the addresses that people are shown.
func (c *adminClient) printLinks(out io.Writer) {
	for _, link := range []struct{ name, uri string }{
		{"logo", c.LogoURI}, {"site", c.ClientURI}, {"policy", c.PolicyURI}, {"terms", c.TermsURI},
	} {
		if link.uri != "" {
			fmt.Fprintf(out, "  %-7s %s\n", link.name, printable(link.uri))
		}
	}
}

func clientDisableVerb() verb {
	return disableVerb("client disable", "ID",
		"switches a client off: none of its tokens works from now on, and those of people end for good",
		"switch the client on again instead", "/clients/")
}
