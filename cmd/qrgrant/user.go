package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/qrgrant/qrgrant/provider"
)

// passwordDetail stands under the verbs that read a password.
const passwordDetail = `    The password is read from standard input, so that it stands in no list of processes:

      qrgrant user passwd alice --db qrgrant.db < FILE`

// readPassword hashes the first line of standard input: the password itself goes no further.
func readPassword(e env) (hash string, err error) {
	line, _ := bufio.NewReader(e.Stdin).ReadString('\n')
	password := strings.TrimRight(line, "\r\n")
	if password == "" {
		return "", usagef("no password on standard input; try: qrgrant user passwd LOGIN --db FILE < PASSWORDFILE")
	}
	return provider.HashPassword(password)
}

func userAddVerb() verb {
	return verb{
		name: "user add", args: []string{"LOGIN"}, detail: passwordDetail,
		summary: "adds a person to the database of a server, running or not",
		prepare: func(flags *flag.FlagSet) action {
			var f adminFlags
			f.declare(flags)
			subject := flags.String("subject", "", "`ID` of the person at relying parties, for ever (default a random one)")
			claims := flags.String("claims", "", "claims as a `JSON` object, such as {\"name\": \"Alice\"}")
			return func(ctx context.Context, e env) error {
				given := adminUser{Login: e.Args[0], Subject: *subject}
				if *claims != "" && json.Unmarshal([]byte(*claims), &given.Claims) != nil {
					return usagef("--claims is not a JSON object")
				}
				var err error
				if given.PasswordHash, err = readPassword(e); err != nil {
					return err
				}
				var added adminUser
				if err := f.call(ctx, e, http.MethodPost, "/users", given, &added); err != nil {
					return err
				}
				fmt.Fprintf(e.Stdout, "added %s, subject %s\n", printable(added.Login), printable(added.Subject))
				return nil
			}
		},
	}
}

func userPasswdVerb() verb {
	return verb{
		name: "user passwd", args: []string{"LOGIN"}, detail: passwordDetail,
		summary: "gives a person another password; every sign-in and token of theirs ends",
		prepare: func(flags *flag.FlagSet) action {
			var f adminFlags
			f.declare(flags)
			return func(ctx context.Context, e env) error {
				hash, err := readPassword(e)
				if err != nil {
					return err
				}
				var changed adminUser
				if err := f.call(ctx, e, http.MethodPost, "/users/"+url.PathEscape(e.Args[0])+"/password", adminUser{PasswordHash: hash}, &changed); err != nil {
					return err
				}
				fmt.Fprintf(e.Stdout, "%s has a new password\n", printable(changed.Login))
				return nil
			}
		},
	}
}

func userListVerb() verb {
	return listVerb("user list", "lists the people in the database", "/users", func(*flag.FlagSet) func(io.Writer, adminUser) {
		return func(out io.Writer, u adminUser) {
			fmt.Fprintf(out, "%-24s %-28s %s\n", printable(u.Login), printable(u.Subject), state(u.Disabled))
		}
	})
}

func userDisableVerb() verb {
	return disableVerb("user disable", "LOGIN",
		"locks an account: no sign-in, and every sign-in and token of it ends for good",
		"unlock the account instead; the person signs in anew", "/users/")
}
