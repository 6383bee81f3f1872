package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/player"
	"github.com/qrgrant/qrgrant/provider/dpop"
)

// story plays the fourteen steps of protocol §11. The PC and the phone share nothing but two
// things that a person carries between them: the picture on the screen and the check code.
type story struct {
	issuer, password  string
	tell              func(demoStep)
	result            demoResult
	pcWire, phoneWire *wire
	// checkCode is what a person reads on the PC's screen.
	checkCode chan string
	// signedIn gets the PC's end of the story.
	signedIn chan pcEnd
}

type pcEnd struct {
	tokens *player.Tokens
	err    error
}

func newStory(issuer, password string, tell func(demoStep)) *story {
	return &story{
		issuer: issuer, password: password, tell: tell,
		pcWire: &wire{polling: make(chan struct{}, 1)}, phoneWire: &wire{},
		checkCode: make(chan string, 1), signedIn: make(chan pcEnd, 1),
	}
}

// step tells one step and keeps it for the result.
func (s *story) step(n int, actor, text string, requests []demoRequest) {
	step := demoStep{Step: n, Actor: actor, Text: text, Requests: requests}
	s.result.Steps = append(s.result.Steps, step)
	s.tell(step)
}

func (s *story) play(ctx context.Context) error {
	attempt, err := s.openPC(ctx)
	if err != nil {
		return err
	}
	phone, ref, err := s.readScreen(attempt.Image)
	if err != nil {
		return err
	}
	if err := s.approve(ctx, phone, ref); err != nil {
		return err
	}
	return s.finishPC(ctx, attempt)
}

// openPC plays steps 1 to 5: the PC asks, shows the code and waits.
func (s *story) openPC(ctx context.Context) (*player.Attempt, error) {
	key, err := dpop.NewKey()
	if err != nil {
		return nil, err
	}
	pc := &player.ConsumptionDevice{
		Issuer: s.issuer, ClientID: "cli", Grant: player.GrantQR, Scopes: []string{"openid", "profile"},
		Image: "png", DeviceName: "the demonstration's PC", HTTP: s.pcWire.client(), Key: key,
	}
	attempt, err := pc.Open(ctx)
	if err != nil {
		return nil, err
	}
	s.step(1, "PC", "asks to sign in, says what it is, and proves a key of its own with the nonce that the server wants", s.pcWire.take())
	s.step(2, "server", fmt.Sprintf("makes a reference, the code %s and a QR code that changes every 10 s", attempt.UserCode), nil)
	s.step(3, "server", fmt.Sprintf("answers with the QR code as text and picture, good for %s", minutes(attempt.Lifetime)), nil)
	s.step(4, "PC", fmt.Sprintf("draws the picture, %d bytes of PNG", len(attempt.Image)*3/4), nil)
	go func() {
		tokens, err := attempt.Await(ctx, func(u player.Update) {
			if u.CheckCode == "" {
				return
			}
			select {
			case s.checkCode <- u.CheckCode:
			default:
			}
		})
		s.signedIn <- pcEnd{tokens, err}
	}()
	select {
	case <-s.pcWire.polling:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.step(5, "PC", "waits for a change with a long poll", []demoRequest{{Method: "POST", Path: "/token", Held: true}})
	return attempt, nil
}

// readScreen plays step 6: from here on the phone knows only what the pixels say.
func (s *story) readScreen(picture string) (*player.Approver, player.Reference, error) {
	payload, err := player.DecodePixels(picture)
	if err != nil {
		return nil, player.Reference{}, err
	}
	issuer, err := player.IssuerOf(payload)
	if err != nil {
		return nil, player.Reference{}, err
	}
	ref, err := player.ReadReference(issuer, payload)
	if err != nil {
		return nil, player.Reference{}, err
	}
	key, err := dpop.NewKey()
	if err != nil {
		return nil, player.Reference{}, err
	}
	s.step(6, "phone", "reads the pixels: "+payload, nil)
	return &player.Approver{
		Issuer: issuer, ClientID: "phone", RedirectURI: phoneRedirect,
		Login: "alice", Password: s.password, HTTP: s.phoneWire.client(), Key: key,
	}, ref, nil
}

// approve plays steps 7 to 12: the phone signs in, claims, shows, and the person decides.
func (s *story) approve(ctx context.Context, phone *player.Approver, ref player.Reference) error {
	if err := phone.SignIn(ctx); err != nil {
		return err
	}
	claim, err := phone.Scan(ctx, ref)
	if err != nil {
		return err
	}
	c := claim.Context
	s.step(7, "phone", "signs alice in with code, PKCE and a key of its own, sends her token"+bound(phone.TokenType())+" and the reference", s.phoneWire.take())
	s.step(8, "server", "marks the sign-in as scanned; nobody else can take it now", nil)
	s.step(9, "phone", fmt.Sprintf("shows who asks, deny first: %s, from %s. %s", c.Client.Name, c.Device.Description, c.Consequence), nil)
	var code string
	select {
	case code = <-s.checkCode:
	case end := <-s.signedIn:
		return fmt.Errorf("the PC ended before it showed a number: %w", end.err)
	case <-ctx.Done():
		return ctx.Err()
	}
	s.step(10, "PC", "hears that it was scanned and shows the number "+code, s.pcWire.take())
	decided, err := phone.Decide(ctx, claim, player.Verdict{Decision: "approve", CheckCode: code})
	if err != nil {
		return err
	}
	s.step(11, "phone", "alice types "+code+" and approves", s.phoneWire.take())
	s.step(12, "server", "marks the sign-in as "+decided.State+"; tokens are made when the PC fetches them", nil)
	return nil
}

// finishPC plays steps 13 and 14: the tokens arrive and the ID token is verified.
func (s *story) finishPC(ctx context.Context, attempt *player.Attempt) error {
	var end pcEnd
	select {
	case end = <-s.signedIn:
	case <-ctx.Done():
		return ctx.Err()
	}
	if end.err != nil {
		return end.err
	}
	s.step(13, "PC", "its long poll is answered with the tokens"+bound(end.tokens.TokenType), s.pcWire.take())
	claims, err := attempt.Verify(ctx, end.tokens)
	if err != nil {
		return err
	}
	s.step(14, "PC", fmt.Sprintf("verifies the ID token: signed in as %s", account(claims)), s.pcWire.take())
	s.result.Claims, s.result.TokenType, s.result.GrantType = claims, end.tokens.TokenType, player.GrantQR
	return nil
}

// bound says what a copy of a token would be worth; nothing of a token that is good by itself.
func bound(tokenType string) string {
	if strings.EqualFold(tokenType, dpop.Scheme) {
		return " (bound to its key: a copy is worth nothing)"
	}
	return ""
}
