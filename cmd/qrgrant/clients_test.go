package main_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/rogpeppe/go-internal/testscript"

	qrgrant "github.com/qrgrant/qrgrant/cmd/qrgrant"
	"github.com/qrgrant/qrgrant/storage"
)

// TestClientScripts are scripts about clients, some of which no file has made.
func TestClientScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/clients",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Values[running{}] = map[string]*process{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"spawn": spawn, "await": await, "unsaid": unsaid, "signal": sendSignal, "ended": ended, "oneline": oneLine,
			"hashed":    hashed,
			"keyed":     keyed,
			"enrol":     enrol,
			"record":    record,
			"grant":     grant,
			"forgotten": forgotten,
		},
	})
}

// hashed FILE checks that the sha256 in it is that of the token in it.
func hashed(ts *testscript.TestScript, _ bool, args []string) {
	var token, sum string
	_, err := fmt.Sscanf(ts.ReadFile(args[0]), "token %s\nsha256 %s\n", &token, &sum)
	ts.Check(err)
	if want := fmt.Sprintf("%x", sha256.Sum256([]byte(token))); sum != want {
		ts.Fatalf("%s is not the hash of the token", sum)
	}
}

// keyed FILE CONFIG checks what client-key has printed and appends its public key, a line as it
// stands there, to the last client of a configuration.
func keyed(ts *testscript.TestScript, _ bool, args []string) {
	block, rest := pem.Decode([]byte(ts.ReadFile(args[0])))
	if block == nil {
		ts.Fatalf("no private key")
	}
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	ts.Check(err)
	_, encoded, _ := strings.Cut(strings.TrimSpace(string(rest)), "[")
	var public jose.JSONWebKey
	ts.Check(public.UnmarshalJSON([]byte(strings.TrimSuffix(encoded, "]}"))))
	if holder, ok := private.(*ecdsa.PrivateKey); !ok || !holder.PublicKey.Equal(public.Key) || public.KeyID == "" {
		ts.Fatalf("not a pair: %s", rest)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), append([]byte(ts.ReadFile(args[1])), "    "+string(rest)...), 0o600))
}

// enrol DB ID registered|metadata stores a client as if it had registered itself.
func enrol(ts *testscript.TestScript, _ bool, args []string) {
	source := map[string]storage.ClientSource{"registered": storage.ClientRegistered, "metadata": storage.ClientMetadata}[args[2]]
	inStore(ts, args[0], func(store storage.Store) error {
		return store.PutClient(context.Background(), &storage.Client{
			ID: args[1], Name: "Its own", Source: source, RegistrationTokenHash: sha256.Sum256([]byte(args[1])),
			RedirectURIs: []string{"https://own.example/callback"}, Scopes: []string{"openid"}, CreatedAt: time.Unix(1_800_000_000, 0),
		})
	})
}

// record DB ID FILE writes what the database has of a client to a file.
func record(ts *testscript.TestScript, _ bool, args []string) {
	inStore(ts, args[0], func(store storage.Store) error {
		client, err := store.Client(context.Background(), args[1])
		if err != nil {
			return err
		}
		return os.WriteFile(ts.MkAbs(args[2]), fmt.Appendf(nil, "%+v\n", *client), 0o600)
	})
}

// grantedToken is the access token that person n has given a client.
func grantedToken(id string, n int) *storage.Token {
	return &storage.Token{
		Kind: storage.TokenAccess, Signature: sha256.Sum256(fmt.Append(nil, id, n)), RequestID: fmt.Sprint(id, n), ClientID: id,
		Subject: fmt.Sprint("person-", n), Active: true, ExpiresAt: time.Now().Add(time.Hour),
	}
}

// grant DB ID… has two people allow each client something and get a token.
func grant(ts *testscript.TestScript, _ bool, args []string) {
	inStore(ts, args[0], func(store storage.Store) error {
		var errs []error
		for n := range 2 {
			subject := fmt.Sprint("person-", n)
			errs = append(errs, store.PutUser(context.Background(), &storage.User{Subject: subject, Login: subject}))
			for _, id := range args[1:] {
				errs = append(errs,
					store.PutConsent(context.Background(), &storage.Consent{Subject: subject, ClientID: id, Scopes: []string{"openid"}, At: time.Now()}),
					store.PutToken(context.Background(), grantedToken(id, n)))
			}
		}
		return errors.Join(errs...)
	})
}

// forgotten DB ID checks that nothing is left that people have given a client, or with ! that all is.
func forgotten(ts *testscript.TestScript, not bool, args []string) {
	inStore(ts, args[0], func(store storage.Store) error {
		for n := range 2 {
			token, err := store.Token(context.Background(), storage.TokenAccess, grantedToken(args[1], n).Signature)
			if err != nil {
				return err
			}
			_, err = store.Consent(context.Background(), token.Subject, args[1])
			if consent := err == nil; token.Active != not || consent != not {
				return fmt.Errorf("of %s a token is active: %t, and a consent there: %t", token.Subject, token.Active, consent)
			}
		}
		return nil
	})
}

func inStore(ts *testscript.TestScript, file string, do func(storage.Store) error) {
	store, err := qrgrant.OpenStore(ts.MkAbs(file), slog.New(slog.DiscardHandler))
	ts.Check(err)
	ts.Check(errors.Join(do(store), store.Close()))
}
