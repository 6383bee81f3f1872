package provider_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider/providertest"
)

// decideOnCard sends the form of the approval card in a language.
func decideOnCard(t *testing.T, s *providertest.Server, browser *http.Client, language string, card *providertest.Reply, pairs ...string) *providertest.Reply {
	t.Helper()
	form := url.Values{"csrf": {card.Hidden("csrf")}, "step": {"decide"}, "card": {card.Hidden("card")}}
	for i := 0; i < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL("/device"), strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept-Language", language)
	return s.Do(browser, req)
}

// The result names only what the other screen has: our own page asks once more, a device of the
// direct door goes on by itself.
func TestResultSaysWhatHappensNext(t *testing.T) {
	t.Parallel()
	for language, want := range map[string]struct{ direct, hosted string }{
		"en": {"signed in within seconds", "On the other screen, choose"},
		"zh": {"将在几秒内登录", "如果另一屏幕显示的是您的名字"},
	} {
		s := newShop(t, providertest.Options{})
		texts, browser := textsOf(t, language), s.Browser()
		notMe, goOn := texts["qr.not_me"], map[string]string{"en": "Continue", "zh": "继续登录"}[language]
		if !strings.HasPrefix(texts["qr.continue"], goOn) {
			t.Errorf("the button is called %q", texts["qr.continue"])
		}

		o := open(t, s, "openid")
		card := deviceCard(t, s, browser, o.start)
		s.Clock.Advance(5 * time.Second)
		code := s.Post(t.Context(), s.Client(), "/token", o.poll).Text("check_code")
		direct := decideOnCard(t, s, browser, language, card, "decision", "approve", "check_code", code)
		if !strings.Contains(direct.Body, want.direct) || strings.Contains(direct.Body, notMe) {
			t.Errorf("%s, direct: %s", language, direct.Body)
		}

		b := visit(t, s, s.Browser(), "shop")
		_, part, _ := strings.Cut(b.page.Body, `id="user-code"`)
		form := s.Get(t.Context(), browser, "/device")
		card = s.Post(t.Context(), browser, "/device", url.Values{
			"csrf": {form.Hidden("csrf")}, "step": {"claim"}, "user_code": {regexp.MustCompile(`[A-Z]{4}-[A-Z]{4}`).FindString(part)},
		})
		number := s.Get(t.Context(), b.browser, strings.Replace(frameOf(b), "/login/qr?", "/login/qr/state?", 1)).Text("check_code")
		hosted := decideOnCard(t, s, browser, language, card, "decision", "approve", "check_code", number)
		if !strings.Contains(hosted.Body, want.hosted) || !strings.Contains(hosted.Body, goOn) || !strings.Contains(hosted.Body, notMe) {
			t.Errorf("%s, hosted: %s", language, hosted.Body)
		}
	}
}

// What is missing is called as the card calls it: a number where the card asks for the two
// digits, a code where it asks for the letters.
func TestCardAsksForWhatIsMissing(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	card := deviceCard(t, s, browser, open(t, s, "openid").start)
	missing := decideOnCard(t, s, browser, "en", card, "decision", "approve")
	if !strings.Contains(missing.Body, `id="card-error">Enter the number from the other screen.`) || !strings.Contains(missing.Body, ">Number shown on the other screen<") {
		t.Errorf("number: %s", missing.Body)
	}
	start := s.PostAs(t.Context(), "kiosk", "/device_authorization", url.Values{"scope": {"openid"}})
	card = deviceCard(t, s, browser, start)
	missing = decideOnCard(t, s, browser, "en", card, "decision", "approve")
	if !strings.Contains(missing.Body, `id="card-error">Enter the code from the other screen.`) || !strings.Contains(missing.Body, ">Code shown on the other screen<") {
		t.Errorf("code: %s", missing.Body)
	}
}
