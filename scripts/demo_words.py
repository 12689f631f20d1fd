"""The words of the conversations that the demo model learns tools from: tables for `demo_chat.py`.

    {noun} {verb}     a word of one conversation, the same in the tool and in the question
    {0} {1} {2}       the values of the tool's parameters, in their order
    {k0} {k1} {k2}    the parameters' names, as words
" / " stands between the entries of a table, " | " between questions with the same answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from demo_text import items  # type: ignore[import-not-found]  # beside this script


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Tools that are asked for in the same way."""

    names: Sequence[str]
    says: Sequence[str]
    keys: Sequence[Sequence[str]]
    """For each parameter, the names that it may have; a name implies what its values are."""
    questions: Sequence[str]
    weight: int
    verbs: Sequence[str] = ("get",)
    nouns: Sequence[str] = ()


# ------------------------------------------------------------------ words

NOUNS = items("""
weather / temperature / price / time / population / forecast / distance / capital / status /
address / phone number / opening hours / exchange rate / balance / score / height / age / weight /
color / size / news / schedule / menu / rating / language / currency / area / speed / length /
salary / email / birthday / timezone / humidity / traffic / stock price / tax rate / recipe /
definition / meaning / author / owner / version / location / altitude / wind / sunrise / sunset /
mayor / president / history / value / cost / level / stock / title / summary / report / order /
delivery date / manager / department / rainfall / air quality / tide / holiday / postcode
""")
THINGS = items("""
item / ticket / table / room / seat / message / note / task / reminder / file / user / book / song /
movie / game / event / meeting / alarm / timer / invoice / product / order / apple / lamp / door /
window / car / bike / train / flight / card / coin / die / dice / number / word / joke / quote /
photo / page / row / point / token / box / bottle / pizza / coffee / stamp / key / robot / sensor /
light / device / server / log / record / contact / account / customer / list / playlist
""")
VERBS = items("""
get / find / check / show / read / fetch / list / create / add / remove / delete / send / start /
stop / open / close / book / buy / sell / order / count / roll / draw / pick / make / set / move /
convert / compute / calculate / generate / print / play / turn / reserve / schedule / update / save /
load / build / test / run / call / throw / flip / measure / reverse / sort / encode / hash / validate
""")
COMMON = items("""
red / blue / old / new / small / big / good / bad / fast / cold / hot / best / first / last / cheap /
history / music / science / garden / river / coffee / house / mountain / winter / summer / morning /
train / engine / python / computer / network / movie / recipe / soup / bread / cheese / cats / dogs /
pandas / birds / trees / flowers / books / games / stars / planets / moon / water / fire / light /
machine learning / world cup / football / chess / jazz / piano / guitar / paint / paper / glass /
restaurants / hotels / shoes / phones / laptops / tickets / jobs / news / weather / space / robots /
how to cook rice / tell me more / hello / good morning / thank you / where is the station / I am late
/ see you tomorrow / happy birthday / call me back / dinner is ready / the meeting is at noon
""")
PLACES = items("""
Paris / London / Berlin / Rome / Madrid / Tokyo / New York / San Francisco / Lisbon / Vienna / Oslo /
Cairo / Delhi / Boston / Chicago / Sydney / Toronto / Dublin / Prague / Warsaw / Athens / Lima /
Nairobi / Seoul / Beijing / Mumbai / Hamburg / Munich / Zurich / Geneva / Amsterdam / Brussels /
Los Angeles / Mexico City / Cape Town / Hong Kong / Helsinki / Stockholm / Kyoto / Milan
""")
PEOPLE = (
    "Alice Bob Carol David Emma Frank Grace Henry Ivan Julia Karl Laura Maria Nina Oscar".split()
)
LANGUAGES = "French German Spanish Italian Dutch Polish Greek Latin Swedish Japanese Hindi".split()
UNITS = items("""
USD EUR / km miles / celsius fahrenheit / meters feet / kg pounds / GBP JPY / liters gallons /
hours minutes / euros dollars / inches cm
""")
ONSETS = "b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kr pl qu sh st th tr".split()
VOWELS = "a e i o u ai ea ee ou oo y".split()
CODAS = " n r l s t m k x nd rt sk ll ng".split(" ")

# ------------------------------------------------------------------ kinds of tools

PLACE_KEYS = "city location place town country region area state destination station".split()
NAME_KEYS = "name person user username customer employee player author contact friend".split()
THING_KEYS = "item product thing object word animal company team title book".split()
TEXT_KEYS = "query q text search_query term keyword topic phrase search input question".split()
CODE_KEYS = "id order_id ticket code symbol ticker user_id number_plate sku key".split()
COUNT_KEYS = (
    "n count number amount sides limit size days minutes people hours quantity times".split()
)
ZONE_KEYS = "timezone tz zone".split()
A_KEYS, B_KEYS = (
    "a x first left num1 base lhs n1".split(),
    "b y second right num2 exponent rhs n2".split(),
)
NUMBERS_KEYS = COUNT_KEYS, A_KEYS, B_KEYS
ANY_KEYS = [*PLACE_KEYS, *NAME_KEYS, *THING_KEYS, *CODE_KEYS, *ZONE_KEYS]
POLITE = ("",) * 9 + ("please", "now", "right now", "today", "for me", "for me, please", "again")
OPENERS = ("",) * 9 + ("Hi! ", "Hello, ", "Please: ", "Hey, ", "I have a question. ", "OK. ")
KINDS = (
    Kind(
        weight=30,
        nouns=NOUNS,
        names=items("""
        get_{noun} / get_{noun} / get_{noun} / {noun} / get_current_{noun} / fetch_{noun} / find_{noun} /
        lookup_{noun} / check_{noun} / {noun}_lookup / get_{noun}_by_{k0} / {noun}_of / read_{noun} /
        query_{noun} / {noun}_tool
        """),
        says=items("""
        get the {noun} for a {k0}. / get the {noun} for a {k0} / returns the {noun} of the given {k0}. /
        look up the {noun} of a {k0}. / get the current {noun} in a given {k0} / the {noun} of a {k0}. /
        find out the {noun}. / tells the {noun}. / get {noun} / use this to find the {noun} of any {k0}.
        """),
        keys=(ANY_KEYS,),
        questions=items("""
        what is the {noun} in {0}? / what is the {noun} of {0}? / what is the {noun} for {0}? /
        what's the {noun} in {0}? / what's the {noun} like in {0}? / what's the {noun} of {0}? /
        how is the {noun} in {0}? / tell me the {noun} of {0}. / tell me the {noun} in {0} /
        {noun} in {0}? / {noun} of {0} / {noun} for {0}, please. / I need the {noun} for {0}. /
        can you check the {noun} of {0}? / could you tell me the {noun} for {k0} {0}? /
        show me the {noun} of {0} / do you know the {noun} in {0}? / give me the {noun} of {0}! /
        what is {0}'s {noun}? / find the {noun} for {k0} {0}. / I am in {0}. what is the {noun}? /
        which {noun} does {0} have? / get the {noun} in {0} / I want to know the {noun} of {0} /
        what is the current {noun} in {0}? / what {noun} is it in {0}? / how about the {noun} in {0}?
        """),
    ),
    Kind(
        weight=16,
        verbs=(
            "add",
            "sum",
            "multiply",
            "subtract",
            "divide",
            "compare",
            "power",
            "mod",
            "gcd",
            "max",
        ),
        nouns=("sum", "product", "difference", "result", "total", "maximum", "quotient", "power"),
        names=items("""
        {verb} / {verb} / {verb} / {verb}_numbers / {verb}_two_numbers / calc_{verb} / calculate_{noun} /
        get_{noun} / compute_{noun} / math_{verb} / {verb}er
        """),
        says=items("""
        {verb} two numbers. / {verb} two numbers / {verb} {k0} and {k1}. / returns the {noun} of two
        numbers. / compute the {noun} of {k0} and {k1}. / the {noun} of two integers. / {verb}s {k0}
        and {k1}
        """),
        keys=(A_KEYS, B_KEYS),
        questions=items("""
        what is {0} plus {1}? / what is {0} times {1}? / what is {0} minus {1}? / {verb} {0} and {1} /
        {verb} {0} and {1}. / {verb} {0} to {1}. / {verb} {0} by {1} / what is the {noun} of {0} and {1}? /
        how much is {0} plus {1}? / how much is {0} + {1}? / what is {0} + {1}? / {0} + {1} / {0} * {1} /
        what's {0} + {1}? / {0} plus {1}? / {0} times {1} / calculate {0} + {1}. / compute {0} * {1} /
        calculate the {noun} of {0} and {1}. / can you {verb} {0} and {1}? / {verb} the numbers {0} and {1} /
        what do you get if you {verb} {0} and {1}? / what is {0} divided by {1}? / what's {0} times {1}? /
        {verb} {k0} {0} and {k1} {1} / use {verb} on {0} and {1}
        """),
    ),
    Kind(
        weight=12,
        verbs=VERBS,
        nouns=THINGS,
        names=items("""
        {verb}_{noun} / {verb}_{noun} / {verb}_{noun}s / {verb} / {verb}_many / {noun}_{verb}er / {verb}_random
        """),
        says=items("""
        {verb} a {noun} with the given {k0}. / {verb} {noun}s. / {verb} a {noun}. / {verb} a number of {noun}s /
        {verb}s a {noun} and returns the result. / {verb} something / {verb} {k0} {noun}s.
        """),
        keys=(COUNT_KEYS,),
        questions=items("""
        {verb} a {noun} with {0} {k0}. / {verb} a {noun} with {0} {k0} / {verb} {0} {noun}s. / {verb} {0} {noun}s /
        {verb} a {0}-sided {noun} / {verb} a {noun} of {0} / {verb} a d{0} / can you {verb} {0} {noun}s? /
        please {verb} {0} {noun}s for me. / I want to {verb} {0} {noun}s / {verb} a {noun} for {0} {k0} /
        {verb} the {noun} to {0} / {verb} {noun} number {0} / could you {verb} a {noun} with {0} {k0}? /
        {verb} {0} / {verb} {noun}s: {0} / what is the {noun} of {0}? / is {0} a {noun}?
        """),
    ),
    Kind(
        weight=14,
        verbs=("search", "find", "look up", "browse", "google", "query", "ask", "research"),
        nouns=("web", "internet", "documents", "database", "wiki", "knowledge", "library", "pages"),
        names=items("""
        search / search / {verb} / {verb} / search_{noun} / {verb}_{noun} / {noun}_search / {verb}_the_{noun} /
        {verb}_tool / do_{verb} / retrieve / retrieve_{noun}
        """),
        says=items("""
        search the {noun}. / search the {noun} for a {k0}. / {verb} the {noun} / {verb} information. /
        use this tool to find information in the {noun}. / {verb} the {noun} and return the best results.
        """),
        keys=(TEXT_KEYS,),
        questions=items("""
        {verb} for {0} / {verb} {0} / search for {0} / search for {0}. / find {0} / look up {0} / look up {0}. /
        search the {noun} for {0} / please search for {0}. / can you find something about {0}? /
        {verb} the {noun} for {0}. / what do you know about {0}? / I want to read about {0}. /
        find information about {0} / tell me about {0}. / what is {0}? / who is {0}? / who was {0}? /
        search: {0} / {verb} the {k0} {0}
        """),
    ),
    Kind(
        weight=12,
        verbs=("find", "plan", "compute", "get", "show", "compare", "book"),
        nouns=(
            "distance",
            "route",
            "flight",
            "train",
            "way",
            "trip",
            "connection",
            "fare",
            "difference",
        ),
        names=items("""
        get_{noun} / {noun} / {verb}_{noun} / {noun}_between / {verb}_{noun}s / calculate_{noun} / search_{noun}s
        """),
        says=items("""
        {verb} the {noun} from {k0} to {k1}. / the {noun} between two places. / {verb} a {noun}. / {verb} the
        {noun} between {k0} and {k1} / get {noun}s
        """),
        keys=(
            "origin start source from_city departure from_place city_a place1".split(),
            "destination end target to_city arrival to_place city_b place2".split(),
        ),
        questions=items("""
        what is the {noun} from {0} to {1}? / what is the {noun} between {0} and {1}? / {noun} from {0} to {1} /
        how far is it from {0} to {1}? / {verb} a {noun} from {0} to {1}. / {verb} the {noun} from {0} to {1} /
        how do I get from {0} to {1}? / I am in {0} and want to go to {1}. / {verb} {noun}s between {0} and {1} /
        how long is the {noun} from {0} to {1}? / I need a {noun} from {0} to {1}, please.
        """),
    ),
    Kind(
        weight=8,
        verbs=("translate", "send", "write", "say", "convert", "post", "mail", "change", "read"),
        nouns=("message", "text", "note", "email", "reminder", "sentence"),
        names=items("""
        {verb} / {verb}_{noun} / {verb}_text / {verb}_a_{noun} / {noun}_{verb}er / {verb}_{noun}_to
        """),
        says=items("""
        {verb} a {noun}. / {verb} a {noun} to {k1}. / {verb} {k0} to a {k1}. / {verb}s the {noun}.
        """),
        keys=(
            "text message body content note sentence".split(),
            "language recipient person target_language to name".split(),
        ),
        questions=items("""
        {verb} "{0}" to {1}. / {verb} "{0}" to {1} / {verb} '{0}' to {1} / {verb} "{0}" into {1} /
        {verb} {0} to {1} / {verb} {0} into {1}. / can you {verb} "{0}" to {1}? / {verb} the {noun} "{0}" to {1}. /
        please {verb} "{0}" for {1} / {verb} this to {1}: {0} / {verb} a {noun} to {1}: {0}
        """),
    ),
    Kind(
        weight=10,
        verbs=("get", "book", "reserve", "order", "buy", "show", "set", "create", "find", "add"),
        nouns=(
            "forecast",
            "weather",
            "room",
            "table",
            "seat",
            "timer",
            "meeting",
            "loan",
            "ticket",
            "hotel",
        ),
        names=items(
            "{verb}_{noun} / {noun} / {verb}_{noun}s / {verb}_{noun}_for / make_{noun} / {verb}"
        ),
        says=items("""
        {verb} a {noun}. / {verb} the {noun} of a {k0}. / {verb} a {noun} for {k1}. / {verb}s {noun}s
        """),
        keys=([*PLACE_KEYS, *NAME_KEYS, *THING_KEYS], COUNT_KEYS),
        questions=items("""
        {verb} a {noun} in {0} for {1} {k1}. / {verb} the {noun} in {0} for the next {1} {k1} /
        what is the {noun} in {0} for {1} {k1}? / {verb} a {noun} for {0} and {1} {k1}. / {verb} {1} {noun}s for {0} /
        {verb} a {noun} for {1} {k1} in {0} / {verb} {1} {noun}s in {0}. / I need a {noun} for {1} {k1} in {0}. /
        {verb} a {noun} called {0} with {1} {k1} / {1} {k1} {noun} in {0}, please / {verb} {0} with {k1} {1}
        """),
    ),
    Kind(
        weight=5,
        verbs=("convert", "exchange", "change", "transform"),
        nouns=("currency", "units", "money", "temperature", "length"),
        names=items("{verb} / {verb}_{noun} / {noun}_{verb}er / {noun}_conversion / {verb}_units"),
        says=items("{verb} {noun}. / {verb} an {k0} from one unit to another. / {verb}s {noun}"),
        keys=(
            "amount value number quantity x".split(),
            "from_unit source from_currency unit_from".split(),
            "to_unit target to_currency unit_to".split(),
        ),
        questions=items("""
        {verb} {0} {1} to {2}. / {verb} {0} {1} to {2} / how much is {0} {1} in {2}? / what is {0} {1} in {2}? /
        how many {2} are {0} {1}? / {0} {1} in {2} / {verb} {0} {1} into {2}, please / {verb} {0} from {1} to {2}
        """),
    ),
    Kind(
        weight=8,
        verbs=VERBS,
        nouns=[*NOUNS, *THINGS],
        names=items("""
        get_{noun} / get_current_{noun} / list_{noun}s / {verb}_{noun} / show_{noun} / current_{noun} / random_{noun} /
        {noun} / {verb}_all_{noun}s
        """),
        says=items("""
        get the {noun}. / returns the current {noun}. / list all {noun}s. / {verb} the {noun}. / {verb} a {noun} /
        the {noun} of today. / {verb} all {noun}s.
        """),
        keys=(),
        questions=items("""
        what is the {noun}? / what is the current {noun}? / list all {noun}s. / {verb} the {noun}. / {verb} a {noun} /
        show me the {noun} / what {noun} is it? / tell me a {noun}. / {verb} all {noun}s / what's the {noun}? /
        give me a {noun} / I want a {noun}. / can you {verb} the {noun}? / which {noun}s are there? / do we have a {noun}?
        """),
    ),
)

# ------------------------------------------------------------------ talk

SYSTEMS = items("""
You are a helpful assistant. / You are a helpful assistant. / Be concise, reply with one sentence. /
Be brief. / Answer the user's questions. / Use the tools to answer. / You are a {noun} assistant. /
You help people with the {noun}. Use your tools. / Be friendly and short. / Today is a {word} day. /
You are {Name}, an assistant for {noun}. / Use the `{tool}` tool to answer. / Always answer in English.
""")
ME = (
    "I am the demo model of edgeserve, a very small language model. I can tell simple stories, answer "
    "a few easy questions, and call tools."
)
UNKNOWN = "I do not know that. I am a very small model, and I know only a few things."
SMALL_TALK = items("""
hello | hi | hey | hello! | hi! | hi there | hello there! | good morning | good evening | hey there! =>
Hello! How can I help you? /
how are you? | how are you doing? | how is it going? | hi, how are you? => I am fine, thank you. How
are you? /
thank you | thanks | thanks! | thank you very much | thanks a lot! | great, thanks => You are welcome. /
bye | goodbye | bye! | see you | see you later | good night => Goodbye! Have a nice day. /
who are you? | what are you? | what model are you? | which model is this? | tell me about yourself. |
introduce yourself | are you chatgpt? | are you a robot? | what is this? | who is this? => {me} /
what is your name? | do you have a name? | your name? => I have no name. I am the demo model of
edgeserve. /
what can you do? | help | how can you help me? | what do you do? | can you help me? => I can tell simple
stories, answer a few easy questions, and call tools. I am a very small model. /
who made you? | where do you come from? | how were you made? => I was trained with edgeserve, on texts
that were written for me. /
how big are you? | how many parameters do you have? | are you clever? | are you smart? => I am very
small: three million parameters. Do not trust what I say. /
ok | okay | yes | no | I see | good | nice | cool | great! => All right. /
test | testing | ping | this is a test | are you there? => I am here. /
tell me a joke | a joke, please => Why did the token wait? It was in the queue.
""")
WHO, WHAT = (
    "who wrote / who invented / who painted / who won / who discovered".split(" / "),
    items("""
what is the meaning of / what is the capital of / when was the end of / where is / how old is / what
is the price of / what is the weather in / why is there / how do I cook / how far is / where does the
word come from: / explain / can you write / translate / summarize / when did
"""),
)
