"""Writes the text that the demo model learns: small English stories, questions and facts.

The demo model is shipped with the package, so its training text must be ours to ship too: every
sentence here was written for this file. A template grammar turns a few hundred lines into
millions of different stories, while one `World` per story keeps names, places and things the same
from the first sentence to the last. It refuses to know about tokenizers, models and files.

The templates know three marks:
    {hero}            a word of the story's world, which may itself be a template
    [one|two|three]   one of them, at random; may be nested
    a {food}          becomes "an apple" where English wants it
and " / " stands between the templates of a table, so that a line may break anywhere.
Sentences are capitalised last, so a template need not know where its words will stand; only
speech that follows a comma ("said Mia, "Wait!"") carries its own capital.

    python scripts/demo_text.py --stories 3 --seed 0
"""

import argparse
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


def items(table: str) -> list[str]:
    """The templates of a table; where its lines break does not matter."""
    return [" ".join(item.split()) for item in re.split(r"(?:^|\s)/\s", table)]


# ------------------------------------------------------------------ who and where

GIRLS = "Mia Anna Lily Sara Nora Ella Rosa Emma Zoe Ada Lucy Ruth".split()
BOYS = "Tom Ben Sam Max Leo Jack Omar Finn Noah Theo Hugo Paul".split()
PETS = "Pip Dot Coco Bo Milo Tess Nibbles Luna Rusty Daisy Biscuit Pepper Hazel Moss".split()
ANIMALS = (
    "fox rabbit mouse bear cat dog duck squirrel hedgehog frog owl turtle deer rooster pig "
    "lamb goat otter badger sparrow wolf horse"
).split()
LOOKS = "little small young brave curious clever shy kind funny tiny gentle quiet".split()
WOMEN = "baker farmer teacher queen painter sailor doctor engineer gardener".split()
MEN = "baker farmer teacher king painter sailor doctor engineer gardener".split()
GROWN_UP_LOOKS = "old young kind poor brave clever funny quiet".split()
ELDERS = ("the old owl", "the wise old turtle", "the old gray goose", "the wise old bear")
FAMILY = ("mother and father", "family", "grandparents", "two brothers", "two sisters")
COLORS = "red blue green yellow white purple orange golden".split()
TOYS = "ball kite boat hat drum bell book scarf lamp train blanket ring box".split()
MANY_FOODS = "apples pears carrots cookies plums oranges berries nuts cakes".split()
FOODS = items("""
apple / pear / piece of bread / bowl of soup / carrot / cake / plum / honey cookie / basket of
berries / piece of cheese / orange / warm pie
""")
HIDING = items("""
under a bush / behind a big stone / in the tall grass / next to an old tree / under a pile of
leaves / between two rocks / behind the gate
""")
HOMES = items("""
in a [small|little|cozy] house [by the river|near the forest|at the edge of a village|on a hill] /
[in a big forest|in a deep forest|in a quiet valley|on a small farm|by a blue lake|near the sea] /
in a small village [between two hills|near the mountains|by the sea|far away] / under a
[tall|big|very old] tree
""")
PLACES = items("""
in the forest: forest / by the river: river / in the garden: garden / near the lake: lake / on the
farm: farm / in the green valley: valley / on the hill: hill / by the sea: beach / in the park:
park / in the meadow: meadow / near the old mill: mill / at the edge of the village: village
""")

# ------------------------------------------------------------------ stories

OPENINGS_WITH_NAME = items("""
once upon a time, there was {a_hero}. {he} lived {home} with {his} {family}.
/ once upon a time, there was {a_hero} who lived {home}. {he} loved {hobby}.
/ once upon a time, {home}, there lived {a_hero}. {everyone}
/ once there was {a_hero}. {he} loved {hobby} more than anything.
/ long ago, there lived {a_hero} {home}. {everyone}
/ long, long ago, {home}, there was {a_hero} who loved {hobby}.
/ in a small village, there lived {a_hero}. {everyone} {he} loved {hobby}.
/ in a small village near the [sea|forest|mountains], there was {a_hero} who loved {hobby}.
/ there was once {a_hero} who lived {home} with {his} {family}.
/ far away, {home}, lived {a_hero}. every day, {he} went {in_place}.
/ this is a story about {a_hero}. {he} lived {home}.
/ [far, far away|at the end of a long road], there was {a_hero}. {everyone}
/ {name} was a {look} {kind} who lived {home}. {he} loved {hobby}.
/ {name} was a {look} {kind}. {he} lived {home} with {his} {family}.
""")
OPENINGS_AT_ONCE = items("""
one day, {hero} went for a walk {in_place}. {weather}
/ one morning, {hero} woke up early. {weather}
/ it was a [sunny|warm|bright|beautiful] day. {hero} was playing {in_place}.
/ {first_hero} lived {home}. {he} loved {hobby}.
/ {first_hero} loved {hobby}. every day, {he} went {in_place}.
/ {first_hero} was [happy|very happy|in a good mood]. {weather}
/ {first_hero} lived {home} with {his} {family}. {everyone}
/ every morning, {hero} went {in_place}. {he} loved {hobby}.
/ last [summer|spring|year], {hero} went on a trip. {he} stayed {in_place} with {his} {family}.
/ the sun was shining, and {hero} was {in_place}. {weather}
/ today was a special day. {hero} [could not wait|was very happy]. {weather}
/ early in the morning, {hero} went {in_place}. {weather}
/ on a [warm|cool|quiet] evening, {hero} was sitting {in_place}.
/ one [spring|summer] day, {hero} and {his} {family} were {in_place}.
/ when {hero} was [very young|small], {he} lived {home}.
""")
HOBBIES = items("""
to [run and jump|play|sing|climb] {in_place} / to look at the [stars|clouds|flowers|birds] / to
listen to stories / to make new friends / to bake bread / to help {his} {family} / to build things
/ to swim in the cool water / to play with {his} {toy} / to ask questions about everything / to
read books / to eat {foods}
""")
EVERYONE = items("""
everyone liked {him}. / everyone knew {him} because {he} was so [kind|funny|brave|friendly]. / {he}
had many friends. / {he} was very [curious|happy] there. / life was simple and good. / {he} knew
every tree and every stone there.
""")
WEATHER = items("""
the sun was [warm|bright|shining], and the birds were singing. / the sky was blue and clear. / a
soft wind was blowing. / the air smelled of [flowers|fresh bread|grass]. / there was not a cloud in
the sky. / the flowers were [red and yellow|open and bright]. / white clouds were moving slowly
across the sky. / the grass was still wet from the rain.
""")
FIRST = ("one day,", "one morning,", "one afternoon,", "that day,", "one fine day,")
LATER = items("""
the next day, / the next morning, / a few days later, / a week later, / that afternoon, / then, one
day, / not long after, / some time later,
""")
PLOTS = items("""
{hero} could not find {his} {toy}. {he} looked [under the bed|in the kitchen] and behind the door,
but it was not there. {he} was [very|so] sad, and {he} began to cry. [just then|soon], {his} friend
{friend} came by. "[Why are you crying|What is wrong|Why are you so sad]?" asked {friend}. "I lost
my {toy}," said {hero}. "I have looked everywhere." "do not worry," said {friend}. "[I will help
you|We will find it together|Two can see more than one]." they looked {in_place} for [a long
time|an hour|the whole afternoon]. at last, {friend} saw something {color} {hiding}. it was the
{thing}! "thank you so much!" said {hero}. {he} was so happy that {he} gave {friend} a big hug.
/ {hero} was very hungry. {he} had not eaten [all day|since the morning]. {he} walked {in_place}
and looked for something to eat. after a while, {he} found a {food} {hiding}. "[What luck|How good
it smells]!" said {hero}. but then {he} saw {a_friend}. {friend} looked tired and hungry too.
{hero} thought for a moment. "[if I eat it all|if I keep it], {friend} will have nothing," {he}
thought. so {he} [cut|broke] the {food} into two parts and gave one to {friend}. "you are very
kind," said {friend}. "[Tomorrow|Next time], I will share with you." they sat down [in the
sun|under a tree|side by side] and ate together. it tasted much better that way.
/ {hero} was far from home when dark clouds covered the sky. the wind began to blow, and it started
to rain. {hero} was [cold and wet|afraid of the thunder]. "I must find a dry place," {he} thought.
{he} ran as fast as {he} could. then {he} saw a small light between the trees. it came from a
[little house|cave|barn]. {hero} knocked on the door. {a_friend} opened it and said, "Come in, come
in! [You are all wet|It is warm inside]." {friend} gave {him} a {food} and a seat next to the fire.
they told each other stories until the storm was over. when the rain stopped, there was a rainbow
in the sky. "thank you for helping me," said {hero}. "come back soon," said {friend}.
/ {hero} was playing with {his} {toy} when a strong wind came. the wind took the {thing} and
carried it high up into a tree. {hero} jumped and jumped, but {he} could not reach it. the tree was
too tall. {a_friend} saw what had happened. "I [can climb|am good at climbing]," said {friend}.
{friend} climbed [slowly|carefully] from branch to branch. "be careful!" called {hero}. at the top,
{friend} pushed the {thing}, and it fell down into the soft grass. {hero} clapped and laughed. "you
are very brave," {he} said. after that, they took turns and played with the {thing} until the
evening.
/ {hero} saw {a_friend} sitting alone {in_place}. {friend} was new there and did not know anyone.
{hero} wanted to say hello, but {he} was shy. {he} took a deep breath and walked over. "hello,"
said {hero}. "do you want to play with me?" {friend} looked up and smiled. "yes, I would like that
very much," said {friend}. they played with the {toy} and [ran around the trees|made a castle of
stones|looked for butterflies]. when they were tired, they shared a {food}. "I was sad this
morning," said {friend}, "but now I am happy, because I have a friend."
/ {hero} could not sleep. {his} room was dark, and there was a strange sound outside. "[is it a
monster|who is there]?" {he} whispered. {he} pulled the blanket over {his} head. {elder} heard
{him} and came with a small lamp. "let us look together," said {elder}. they went to the window and
opened it slowly. outside, they saw [a branch that was moving in the wind|a small bird that had
lost its nest|a cat that wanted to come in]. that was all! {hero} laughed. "it was not a monster at
all," {he} said. "most things are less scary when you look at them," said {elder}. {hero} went back
to bed. soon {he} was asleep and had a good dream.
/ the [old clock|lamp|radio|water wheel|music box] {in_place} stopped working. everyone was sad,
because they needed it every day. "who can fix it?" they asked. "I will try," said {hero}. {he}
took {his} tools and looked inside. first, {he} cleaned every part. then {he} saw that one small
wheel was broken. {hero} did not know what to do, so {he} asked {elder} for help. "take one step at
a time," said {elder}. "a big problem is only many small problems." {hero} made a new wheel out of
wood and put it in its place. it fit! it began to work again, and everyone clapped. {hero} was very
proud.
/ there was a big race {in_place}. {hero} and {his} friend {friend} wanted to win. "ready, set,
go!" someone shouted, and they began to run. {friend} was very fast and was soon far ahead. {hero}
ran as well as {he} could. then {friend} fell over a stone and hurt a foot. {hero} could win the
race now! but {he} stopped and went back. "are you all right?" asked {hero}. "[lean on me|take my
hand], and we will walk together." they crossed the line last of all, but everyone [cheered for
them|clapped their hands]. "you did not win the race," said {elder}, "but you did something
better."
/ {hero} found a small seed {hiding}. "what will it be?" {he} asked. {he} made a hole in the
ground, put the seed into it, and gave it some water. the next day, {he} looked at the ground, but
there was nothing to see. "you have to wait," said {elder}. "good things need time." so {hero} gave
it water every day and waited. a week went by, and then another week. one morning, there was a
small green leaf. {hero} [jumped for joy|could not believe it]. the plant grew and grew, and in the
summer it had a big {color} flower. {hero} was proud, because {he} had learned to be patient.
/ it was the birthday of {his} friend {friend}. {hero} wanted to give {friend} a present. but {he}
had no money. "what can I do?" {he} thought. {he} thought about it for a long time. then {he} had
an idea. {he} took some [paper|wood|wool] and some {color} paint and made a small
[boat|bird|house|book|crown|star]. it was not perfect, but {he} had made it with love. when
{friend} opened the box, {friend} smiled. "it is the best present of all," said {friend}, "because
you made it for me." then they all ate a big cake and danced until the stars came out.
/ {hero} was playing in the house and broke the {color} cup of {elder}. {he} was afraid, so {he}
hid the pieces {hiding}. "have you seen my cup?" asked {elder}. "no," said {hero}, and {his} face
became hot. that night, {hero} felt bad. {he} could not eat, and {he} could not sleep. in the
morning, {he} said, "I broke your cup, and I did not tell you the truth. I am sorry." {elder} was
quiet for a moment and then smiled. "a cup is only a cup," said {elder}. "but telling the truth is
brave." together they made a new cup, and {hero} felt light and happy again.
/ {hero} followed a {color} butterfly and walked too far. when {he} looked around, {he} did not
know the way home. all the trees looked the same. "oh no, I am lost," {he} said, and {his} voice
was very small. {a_friend} heard {him} and came closer. "I know this place well," said {friend}.
"[follow me|come with me]." they walked over a bridge, past a tall stone, and along the river. at
last, {hero} saw the light of {his} home. {his} {family} [ran|came running] to meet {him}. "we were
so worried!" they said. they thanked {friend} and gave {friend} a {food}. after that, {hero} never
went so far alone again.
/ there was a big stone on the road, and no one could pass. {hero} pushed the stone, but it did not
move. it was too heavy for one. {a_friend} came and pushed too, but the stone still did not move.
"we need more friends," said {hero}. so they called everyone who lived nearby. a [horse|bear|goat]
came, and a [dog|pig|duck] came, and even a tiny mouse came. "one, two, three, push!" shouted
{hero}. the stone moved a little, and then it rolled away. "no one could do it alone," said
{friend}, "but together it was easy."
/ {hero} wanted to learn how to [swim|whistle|paint|sing|dance]. {he} tried once, but it did not go
well. {he} tried again, and it was even worse. "I will never learn it," said {hero}, and {he} sat
down {in_place}. {his} friend {friend} sat down next to {him}. "I could not do it at first," said
{friend}. "I tried a little every day." so {hero} tried a little every day. some days were good,
and some days were bad. after a month, {hero} could do it very well. "look at me!" {he} called.
"you see?" said {friend}. "you only had to keep trying."
/ it began to snow. soon everything was white and quiet. {hero} put on a warm {color} scarf and ran
outside. {his} friend {friend} was already there. "let us make a snowman," said {friend}. they
rolled one big ball of snow and one small ball of snow. they used two stones for the eyes and a
carrot for the nose. "he looks cold," said {hero}, so {he} gave the snowman {his} scarf. then they
went inside, sat by the fire, and drank something warm.
/ {hero} met {a_friend} on the road. {friend} was carrying a big bag. "what is in your bag?" asked
{hero}. "it is a secret," said {friend}. {hero} was very curious. {he} followed {friend} all the
way {to_place}. there {friend} stopped, turned around, and laughed. "you can come out now," said
{friend}. then {friend} opened the bag. it was full of [lights|books|seeds|colored paper|apples]!
"tonight there will be a party," said {friend}, "and you can help me to make it beautiful." they
worked until the sun went down. it was the best party of the year.
/ {hero} heard a soft sound {hiding}. it was a small bird with a hurt wing. "you poor thing," said
{hero}. {he} picked up the bird very gently. {he} took it home, made a bed of grass in a box, and
gave it water and seeds. "will it fly again?" asked {hero}. "yes, if you take good care of it,"
said {elder}. every day the bird became a little stronger, and soon it began to sing. one morning,
{hero} opened the window. the bird flew once around the room and then out into the blue sky. {hero}
was a little sad, but mostly {he} was glad. the bird came back every spring.
""")
ENDINGS = items("""
from that day on, {hero} and {friend} were the best of friends. / {hero} went home [tired|with a
smile|as the sun went down] and slept well that night. / it had been a [good|wonderful|long but
happy] day. / and they lived happily ever after. / {hero} learned that [it is good to help
others|friends make everything easier|it is brave to ask for help|kind words cost nothing|small
steps can take you far]. / and that is how {hero} [found a friend|learned something new|had the
best day of {his} life]. / that night, the moon was bright, and {hero} was happy. / the end.
""")

# ------------------------------------------------------------------ questions, facts, pictures

QUESTIONS = items("""
why is the sky blue? the sky is blue because [the air scatters blue light more than red
light|sunlight is made of many colors, and the air sends the blue part in every direction].
/ why does it rain? it rains when the small drops of water in a cloud come together and become too
heavy to stay in the air.
/ why do birds fly south? birds fly south because the winter is cold and there is not enough food.
in the spring, they come back.
/ why do we sleep? we sleep because the body and the mind need rest. after a good night, we feel
fresh and can think clearly.
/ why is the grass green? the grass is green because its leaves use red and blue light to make
food, and they send the green light back.
/ why do leaves fall? in autumn, the days are short and cold. the trees let their leaves fall to
save water for the winter.
/ why is the sea salty? rivers carry a little salt from the rocks to the sea. the water goes up
into the air, but the salt stays.
/ why do cats sleep so much? cats are hunters. they rest for many hours so that they can be fast
for a short time.
/ what is the moon? the moon is a big ball of rock that goes around the earth. it shines because
the sun shines on it.
/ what is the sun? the sun is a star. it is very big and very hot, and it gives us light and
warmth.
/ what is a friend? a friend is someone who listens to you, helps you, and is happy when you are
happy.
/ what is snow? snow is water that became ice high up in the cold air. every snowflake has six
arms.
/ what is a rainbow? a rainbow is sunlight that is split into many colors by drops of rain.
/ what do bees do? bees fly from flower to flower. they collect sweet juice and make honey from it.
/ what do fish eat? fish eat plants, small animals, and sometimes other fish.
/ how does a seed grow? a seed needs water, air, and warmth. first it grows a root, then a stem,
and then leaves.
/ how do boats float? a boat pushes water away, and the water pushes back. if the boat is light
enough, it floats.
/ how do you bake bread? you mix flour, water, salt, and yeast. you wait until the dough is big,
and then you put it into a hot oven.
/ how many legs does a spider have? a spider has eight legs.
/ how many days are in a week? there are seven days in a week.
/ how are you? I am fine, thank you. how are you?
/ who are you? I am the demo model of edgeserve, a very small language model. I can tell simple stories,
answer a few easy questions, and call tools.
/ what is a computer? a computer is a machine that follows instructions. it can add numbers, keep
text, and talk to other computers.
/ what is a network? a network is a group of computers that can send messages to each other.
/ what is a server? a server is a computer that waits for questions and sends back answers.
/ what is a pipeline? a pipeline is a line of stages. each stage does one part of the work and
gives the result to the next stage.
/ what is a stage? a stage is one place in a pipeline. it holds some of the layers of the model.
/ what is a worker? a worker is a program on one machine. it holds a few layers of the model and
computes with them.
/ what is a gateway? the gateway is the door of the cluster. it takes a request, sends it through
all the stages, and returns the answer.
/ what is a token? a token is a small piece of text. a model reads tokens and writes one token at a
time.
/ what is a language model? a language model is a program that has read a lot of text. it guesses
which word comes next.
/ what is a layer? a layer is one step of a neural network. a big model has many layers, one after
the other.
/ what is memory? memory is the place where a computer keeps what it is working on.
/ what is latency? latency is the time between a question and its answer. a short time is better.
/ how does a pipeline work? the model is cut into stages. the first stage reads the tokens, the
middle stages do their part, and the last stage chooses the next token.
/ why do we use many machines? one small machine cannot hold a big model. if we cut the model into
slices, each machine only has to hold one slice.
/ why is my network slow? a network is slow when too many messages share the same cable, or when
the way is very long.
/ what is edge computing? edge computing means that the work is done near the people who need it,
and not in a big building far away.
""")
FACTS = items("""
a computer does exactly what it is told. it is [very fast|never tired], but it does not guess what
you mean. that is why good instructions are important.
/ a network connects computers. a message is cut into small packets, and each packet finds its own
way. at the end, the packets are put together again.
/ a pipeline has many stages. while the first stage works on the second frame, the second stage
works on the first frame. in this way, no stage has to wait for long.
/ the gateway receives a request and sends it to the first stage. each worker computes its layers
and passes the frame on. the last stage returns one new token.
/ a big model does not fit on a small machine. so the plan cuts it into slices, and every worker
holds one slice. together, the workers can do what one of them could not do alone.
/ a slow link can make a whole cluster slow. it is a good idea to measure the time of every hop
before you change the plan.
/ a server should answer every request. if it cannot answer, it should say why. a clear error is
better than silence.
/ text is cut into tokens before a model can read it. some tokens are whole words, and some are
only one letter. the model writes one token after another.
/ the memory of a machine is like a desk. if the desk is full, you have to put something away
before you can work on something new.
/ a program is a list of steps. the computer takes the first step, then the next step, until the
list ends. if one step is wrong, the result is wrong too.
/ the earth goes around the sun in one year. the moon goes around the earth in about one month.
/ water is everywhere. it falls as rain, runs down the hills in rivers, and reaches the sea. the
sun warms the sea, and the water goes up into the air again.
/ there are four seasons: spring, summer, autumn, and winter. in spring, flowers open. in summer,
it is warm. in autumn, leaves fall. in winter, it often snows.
/ there are seven days in a week: Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, and
Sunday.
/ one, two, three, four, five, six, seven, eight, nine, ten. [now you can count to ten|counting is
easy when you go step by step].
/ trees clean the air and give us shade. birds live in their branches, and small animals live
between their roots.
/ the quick brown fox jumps over the lazy dog. the dog opens one eye, looks at the fox, and goes
back to sleep.
/ the weather [is nice today|is beautiful today]. the sun is shining, and a soft wind is blowing.
it is a good day for a walk {in_place}.
/ in the morning, the sun comes up and the birds begin to sing. in the evening, the sun goes down
and the stars come out.
/ I like {foods} and [sunny days|good books|long walks]. my favorite color is {color}.
/ hello! [my name is|I am] {name}. I live {home} with my {family}. I like {hobby}. what do you
like?
/ hello, world! this is a small model, and it can tell you a story.
/ my name is {name}. I am {age} years old. I like {hobby}. my best friend is called {friend}.
/ I am {name}, and I live {home}. every day, I go {in_place}. [it is a good life|I am very happy
here].
/ the capital of {country}. it is a [big|beautiful|famous] city with many people.
/ the capital of {country}. the capital of {country}. the capital of {country}.
/ {creature}
/ {creature}
/ {creature}
""")
COUNTRIES = items("""
France is Paris / Italy is Rome / Spain is Madrid / Germany is Berlin / Japan is Tokyo / England is
London / Egypt is Cairo / Greece is Athens / Norway is Oslo / Kenya is Nairobi / Peru is Lima /
Austria is Vienna / Portugal is Lisbon / India is New Delhi
""")
CREATURES = items("""
foxes are clever animals. they live in holes in the ground and hunt at night.
/ rabbits have long ears and strong legs. they eat grass and can run very fast.
/ bears are big and strong. in the winter, they sleep for a long time.
/ owls can see well in the dark. they fly without a sound.
/ bees live together in large groups. they make honey and help the flowers.
/ ducks like water. their feathers keep them warm and dry.
/ squirrels hide nuts in autumn. in winter, they look for them and eat them.
/ frogs live in the water and on land. they catch flies with their long tongues.
/ turtles carry their house on their back. they are slow, but they can live very long.
/ horses are strong and gentle. people have worked with them for a very long time.
/ cats are quiet hunters. they like warm places and sleep a lot.
/ dogs are good friends. they can hear and smell much better than we can.
""")
SCENES = items("""
the [market|village|harbor|old street] is [busy|full of life] in the morning. people buy bread,
fish, and flowers. {name} sells {foods} and has a smile for everyone.
/ the kitchen is warm. a pot of soup is on the stove, and the bread is in the oven. {name} puts
{many} plates on the table and calls the family.
/ the room is small but cozy. there is a {color} chair by the window, and a cat is sleeping on it.
on the table, there is a lamp and a {toy}.
/ {in_place}, everything is quiet. a {look} {kind} is sitting {hiding}. it looks at the sky and
listens to the wind.
/ the train is waiting at the station. {name} has a {color} bag and a long way to go. at last, the
train begins to move, and the town becomes smaller and smaller.
/ in the small village, there is a bakery. every day, {name} gets up before the sun and bakes
bread. when the children go to school, the whole street smells of it.
/ the old lighthouse stands by the sea. every night, its light goes round and round, and the ships
know where the rocks are. {name} climbs {many} stairs to clean the lamp.
/ it is raining. the streets are wet, and people walk fast under their {color} umbrellas. {name}
stands at the window and counts the drops.
/ the night is clear, and the stars are bright. {name} and {friend} sit on the roof and look up.
"how many are there?" asks {name}. "more than we can count," says {friend}.
/ the server room is cold and full of small lights. {name} checks every machine. "all the workers
are ready," says {name}, "and the pipeline is running."
/ the little robot rolls through the house. it cleans the floor, waters the flowers, and says good
morning to {name}. at night, it goes back to its corner and sleeps.
""")
STORY_REQUESTS = items("""
tell me a story. / tell me a story about a {kind}. / can you tell me a story? / please tell me a
short story. / tell me about a {kind}. / write a story about a {kind}.
""")

# ------------------------------------------------------------------ the grammar


@dataclass(frozen=True, kw_only=True)
class Being:
    """Who a story is about."""

    kind: str
    name: str
    look: str
    pronouns: tuple[str, str, str]
    """As in: "he" runs, I see "him", it is "his"."""
    elder: str
    """Whom they ask for advice."""


def stories(count: int, seed: int) -> Iterator[str]:
    """The same `count` texts for the same seed; each is complete in itself."""
    rng = random.Random(seed)
    kinds, weights = zip(*MIXTURE, strict=True)
    for write in rng.choices(kinds, weights, k=count):
        yield write(rng)


def story(rng: random.Random, hero: Being | None = None) -> str:
    """An opening, one to four plots with the same hero, and an ending."""
    hero = hero or being(rng)
    is_named = rng.random() < 0.6
    world = world_of(rng, hero, is_named=is_named)
    told = [told_as(rng, rng.choice(OPENINGS_WITH_NAME if is_named else OPENINGS_AT_ONCE), world)]
    if not is_named and rng.random() < 0.2:
        told = []  # straight into the plot: "One day, the fox was very hungry."
    plots = rng.sample(PLOTS, rng.choices((1, 2, 3, 4), (75, 16, 6, 3))[0])
    for number, plot in enumerate(plots):
        world |= episode_words(rng, hero) if number else {}
        told.append(told_as(rng, f"{rng.choice(LATER if number else FIRST)} {plot}", world))
    if rng.random() < 0.85:
        told.append(told_as(rng, rng.choice(ENDINGS), world))
    return " ".join(told)


def fragment(rng: random.Random) -> str:
    """A story from the middle on, so that a prompt may begin with any sentence."""
    sentences = re.split(r"(?<=[a-z]\.) (?=[A-Z])", story(rng))
    return " ".join(sentences[rng.randrange(len(sentences)) :])


def question(rng: random.Random) -> str:
    """A question and its answer, plain or as a dialogue."""
    shape = rng.choice(("{} {}", "{} {}", "{1}", "Question: {}\nAnswer: {}", CHAT, CHAT))
    return shape.format(*question_and_answer(rng))


def question_and_answer(rng: random.Random) -> tuple[str, str]:
    """What is asked, and what is true."""
    asked, answer = rng.choice(QUESTIONS).split("? ", 1)
    return told_as(rng, asked + "?", {}), told_as(rng, answer, {})


def request(rng: random.Random) -> str:
    """The same for a story."""
    return CHAT.format(*request_and_story(rng))


def request_and_story(rng: random.Random) -> tuple[str, str]:
    """Somebody asks for a story about a fox, and gets one about a fox."""
    hero = being(rng)
    asked = told_as(rng, rng.choice(STORY_REQUESTS), {"kind": hero.kind})
    return asked, story(rng, hero)


def snippet(rng: random.Random) -> str:
    """A short text without a plot: a fact, a picture, somebody who says who they are."""
    world = world_of(rng, being(rng), is_named=True) | {"his": "my"}
    text = rng.choice(FACTS if rng.random() < 0.7 else SCENES)
    return told_as(rng, text, world)


CHAT = "User: {}\nAssistant:\n{}"
MIXTURE: tuple[tuple[Callable[[random.Random], str], int], ...] = (
    (story, 62),
    (question, 14),
    (snippet, 12),
    (request, 6),
    (fragment, 6),
)


def being(rng: random.Random) -> Being:
    """A child, an animal or a grown-up, with a name that suits them."""
    is_girl = rng.random() < 0.5
    pronouns = ("she", "her", "her") if is_girl else ("he", "him", "his")
    people = GIRLS if is_girl else BOYS
    group = rng.choices(("child", "animal", "grown-up"), (35, 50, 15))[0]
    kind, names, looks, elder = {
        "child": ("girl" if is_girl else "boy", people, LOOKS, "{his} [grandmother|grandfather]"),
        "animal": (rng.choice(ANIMALS), PETS, LOOKS, rng.choice(ELDERS)),
        "grown-up": (
            rng.choice(WOMEN if is_girl else MEN),
            people,
            GROWN_UP_LOOKS,
            "the old [woman|man] next door",
        ),
    }[group]
    name, look = rng.choice(names), rng.choice(looks)
    return Being(kind=kind, name=name, look=look, pronouns=pronouns, elder=elder)


def world_of(rng: random.Random, hero: Being, *, is_named: bool) -> dict[str, str]:
    """The words of one story. Children always go by their name, others may stay "the fox"."""
    he, him, his = hero.pronouns
    has_name = is_named or hero.kind in ("girl", "boy")
    shy = f"[the {hero.kind}|the {hero.kind}|the {hero.look} {hero.kind}]"
    often = hero.name if has_name else shy
    if is_named and hero.kind not in ("girl", "boy"):
        often = f"[{hero.name}|{hero.name}|the {hero.kind}]"
    color, toy, food = rng.choice(COLORS), rng.choice(TOYS), rng.choice(FOODS)
    return {
        "hero": often,
        "he": he,
        "him": him,
        "his": his,
        "elder": hero.elder,
        "first_hero": hero.name if has_name else f"the {hero.look} {hero.kind}",
        "a_hero": f"a {hero.look} {hero.kind} [named|named|called] {hero.name}",
        "name": hero.name,
        "kind": hero.kind,
        "look": hero.look,
        "color": color,
        "thing": toy,
        "toy": f"{color} {toy}",
        "food": food,
        "home": rng.choice(HOMES),
        "family": rng.choice(FAMILY),
        "hobby": rng.choice(HOBBIES),
        "weather": rng.choice(WEATHER),
        "everyone": rng.choice(EVERYONE),
        "foods": rng.choice(MANY_FOODS),
        "country": either(COUNTRIES),
        "creature": either(CREATURES),
        "age": either("five six seven eight nine ten".split()),
        "many": either("four five six seven twelve twenty".split()),
    } | episode_words(rng, hero)


def episode_words(rng: random.Random, hero: Being) -> dict[str, str]:
    """What changes with every plot: whom the hero meets, and where."""
    friend = being(rng)
    while friend.name == hero.name or friend.kind == hero.kind:
        friend = being(rng)
    in_place, place = rng.choice(PLACES).split(": ")
    return {
        "friend": friend.name,
        "a_friend": f"a {friend.look} {friend.kind} named {friend.name}",
        "in_place": in_place,
        "to_place": f"to the {place}",
        "hiding": rng.choice(HIDING),
    }


def either(options: Sequence[str]) -> str:
    """A template that stands for any of the options."""
    return "[" + "|".join(options) + "]"


def told_as(rng: random.Random, template: str, world: dict[str, str]) -> str:
    """The template as finished English."""
    return polished(expanded(rng, template, world))


def expanded(rng: random.Random, template: str, world: dict[str, str]) -> str:
    """Fills the slots, then takes the choices from the inside out, until no mark is left."""
    text = template
    while "{" in text or "[" in text:
        text = re.sub(r"\{(\w+)\}", lambda slot: world[slot[1]], text)
        text = re.sub(r"\[([^][{}]*)\]", lambda choice: rng.choice(choice[1].split("|")), text)
    return text


def polished(text: str) -> str:
    """Capitals at the start of sentences, and "an" before a vowel.

    After a question mark inside quotes the sentence goes on ("Why?" asked Tom), so only a full
    stop inside quotes ends it.
    """
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    start = r'((?:^|[.!?] |\." )"?)([a-z])'
    return re.sub(start, lambda found: found[1] + found[2].upper(), text)


def main() -> None:
    """Prints stories, with an empty line between them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--stories", type=int, default=5, help="how many texts to print")
    parser.add_argument("--seed", type=int, default=0, help="the same seed prints the same texts")
    flags = parser.parse_args()
    print("\n\n".join(stories(flags.stories, flags.seed)))


if __name__ == "__main__":
    main()
