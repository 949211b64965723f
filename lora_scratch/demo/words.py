"""The word lists of the demo corpus."""

from __future__ import annotations

EMOTIONS = ("sadness", "joy", "love", "anger", "fear", "surprise")
SENTIMENTS = ("negative", "positive")

# A word belongs to one emotion and one sentiment. Only surprise has both sentiments.
_FEELINGS = {
    ("sadness", "negative"): (
        "sad gloomy miserable heartbroken sorrowful lonely tearful downcast mournful dejected "
        "unhappy glum desolate forlorn hopeless melancholy weepy crushed bereft blue"
    ),
    ("joy", "positive"): (
        "happy joyful cheerful delighted glad merry elated jolly gleeful ecstatic "
        "thrilled blissful jubilant sunny upbeat overjoyed content radiant playful jovial"
    ),
    ("love", "positive"): (
        "loving affectionate tender fond adoring devoted caring enamoured smitten romantic "
        "passionate infatuated besotted doting warmhearted lovestruck amorous sentimental attached cuddly"
    ),
    ("anger", "negative"): (
        "angry furious mad irate livid outraged annoyed irritated enraged cross "
        "bitter resentful hostile indignant seething incensed fuming infuriated vexed grumpy"
    ),
    ("fear", "negative"): (
        "afraid scared frightened terrified anxious nervous worried panicky fearful uneasy "
        "timid alarmed petrified jittery apprehensive spooked tense jumpy daunted shaky"
    ),
    ("surprise", "positive"): (
        "amazed astonished dazzled awestruck impressed wowed spellbound intrigued fascinated wonderstruck"
    ),
    ("surprise", "negative"): (
        "shocked stunned startled staggered dumbfounded flabbergasted stupefied bewildered perplexed aghast"
    ),
}
FEELINGS = {names: tuple(words.split()) for names, words in _FEELINGS.items()}

# First words of a clause, by (by_speaker, now, denied). {} is a person.
OPENINGS = {
    (True, True, False): ("i am", "i feel", "it makes me", "i still feel", "i have become", "it leaves me"),
    (True, True, True): ("i am not", "i do not feel", "it does not make me", "i am no longer", "i never feel"),
    (True, False, False): ("i was", "i felt", "it made me", "i used to be", "i had become", "it left me"),
    (True, False, True): ("i was not", "i did not feel", "it did not make me", "i had never been", "i never felt"),
    (False, True, False): ("{} is", "{} feels", "it makes {}", "{} still feels", "{} has become", "it leaves {}"),
    (False, True, True): ("{} is not", "{} does not feel", "it does not make {}", "{} is no longer", "{} never feels"),
    (False, False, False): ("{} was", "{} felt", "it made {}", "{} used to be", "{} had become", "it left {}"),
    (False, False, True): ("{} was not", "{} did not feel", "it did not make {}", "{} had never been", "{} never felt"),
}

# Denials of the whole clause. With a second negation inside, the clause is true.
DENIALS = ("it is not true that", "it is wrong to say that", "nobody can say that", "it is a lie that")
# Assertions do not change the clause, but can add a second person.
ASSERTIONS = ("i know that", "{} knows that", "everyone can see that", "{} has noticed that", "it is true that")

PEOPLE = (
    "my sister", "my brother", "my mother", "my father", "my teacher", "the neighbour", "the doctor", "our driver",
    "the baker", "her cousin", "his uncle", "the judge", "my friend", "your aunt", "the nurse", "their landlord",
    "the girl", "the boy", "our captain", "the waiter",
)  # fmt: skip
INTENSIFIERS = ("very", "so", "really", "quite", "rather", "truly", "deeply", "terribly", "a bit", "somewhat", "extremely")
TOPICS = (
    "about the exam", "about the wedding", "about the new job", "because of the rain", "because of the letter",
    "after the phone call", "after the meeting", "about the house", "because of the news", "about the journey",
    "at the station", "in the kitchen", "at work", "in this town", "about the match", "because of the garden",
    "about the concert", "after dinner", "on the train", "because of the dog",
)  # fmt: skip
TIMES = {
    True: ("today", "these days", "right now", "this morning", "at the moment", "tonight"),
    False: ("last year", "years ago", "back then", "as a child", "last summer", "in those days"),
}
LINKS = (", but", ", and", ", while", ", although", ", even though", ". besides,", ". meanwhile", ". also,", ";", ".")
# Asks the foundation model for the word that names the feeling.
RECALL = " in a word: [MASK]."
