package provider

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// The languages of the pages; the first one is that of people whose language we do not have.
func languages() []string { return []string{"en", "zh"} }

// texts are what the pages say in one language. A text has an id; what code says (an error, a
// scope in words) is named by its English sentence.
type texts map[string]string

// text returns the text of an id; what no language has stands for itself.
func (t texts) text(id string) string {
	if text, ok := t[id]; ok {
		return text
	}
	return id
}

// say fills in a text of the request's language.
func (p *Provider) say(r *http.Request, id string, values ...any) string {
	return fmt.Sprintf(p.pages.texts[language(r)].text(id), values...)
}

// loadTexts reads the file of every language: ours, and over it what an override says. What a
// language lacks is English.
func loadTexts(override fs.FS) (map[string]texts, error) {
	all := make(map[string]texts)
	for _, language := range languages() {
		all[language] = make(texts)
		maps.Copy(all[language], all[languages()[0]])
		for _, files := range []fs.FS{nil, override} {
			body, err := templateFile(files, language+".json")
			if err != nil {
				return nil, err
			}
			own := make(texts)
			if err := json.Unmarshal(body, &own); err != nil {
				return nil, fmt.Errorf("provider: texts %s: %w", language, err)
			}
			maps.Copy(all[language], own)
		}
	}
	return all, nil
}

// language is the one a page is shown in: the first that ui_locales names and we have, else
// what the browser prefers.
func language(r *http.Request) string {
	// Nobody reads so many languages that the first of them would not do.
	locales, _ := uniqueWords(uiLocales(r))
	for _, wanted := range append(locales, acceptedLanguages(r.Header.Get("Accept-Language"))...) {
		primary, _, _ := strings.Cut(strings.ToLower(wanted), "-")
		if slices.Contains(languages(), primary) {
			return primary
		}
	}
	return languages()[0]
}

// uiLocales is that of the authorization request (OpenID Connect Core §3.1.2.1), wherever on
// the way of its pages we are.
func uiLocales(r *http.Request) string {
	if locales := r.URL.Query().Get("ui_locales"); locales != "" {
		return locales
	}
	for _, carried := range []string{r.URL.Query().Get("next"), r.PostForm.Get("next"), "?" + r.PostForm.Get("request")} {
		_, raw, _ := strings.Cut(carried, "?")
		values, err := url.ParseQuery(raw)
		if err == nil && values.Get("ui_locales") != "" {
			return values.Get("ui_locales")
		}
	}
	return ""
}

// longestAccept bounds what is read of an Accept-Language header.
const longestAccept = 512

// acceptedLanguages lists the header's languages, most wanted first (RFC 9110 §12.5.4).
func acceptedLanguages(header string) []string {
	type wish struct {
		language string
		quality  float64
	}
	var wishes []wish
	for item := range strings.SplitSeq(header[:min(len(header), longestAccept)], ",") {
		name, parameter, _ := strings.Cut(strings.TrimSpace(item), ";")
		quality := 1.0
		if value, ok := strings.CutPrefix(strings.TrimSpace(parameter), "q="); ok {
			var err error
			if quality, err = strconv.ParseFloat(value, 64); err != nil {
				continue
			}
		}
		if quality > 0 {
			wishes = append(wishes, wish{strings.TrimSpace(name), quality})
		}
	}
	slices.SortStableFunc(wishes, func(a, b wish) int { return cmp.Compare(b.quality, a.quality) })
	names := make([]string, len(wishes))
	for i, w := range wishes {
		names[i] = w.language
	}
	return names
}
