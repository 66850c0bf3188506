"""The sentences that the tiny model learns: plain data, written for this recipe.

What this is not: the mixing and the templates, which live in tiny_corpus.py. Every sentence here
was written by the project for the project and is under the project's own licence (Apache-2.0).
The terms paraphrase the glossary of the design.
"""

__all__ = [
    "CODE",
    "COMPARISONS",
    "FACTS",
    "LISTS",
    "PASSAGES",
    "STORIES",
    "SYSTEM_MESSAGES",
    "TALK",
    "TERMS",
    "TOPICS",
]

SYSTEM_MESSAGES: tuple[str, ...] = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer in clear sentences.",
    "You are a friendly guide to Piecework.",
    "You are a small language model that runs in pieces.",
    "Be brief and kind.",
    "You are a patient teacher.",
    "Answer the question as well as you can.",
    "You are a helpful, honest assistant. Keep your answers short.",
    "You are an assistant. Be polite and clear.",
    "You are running on several small machines at home.",
    "Answer in plain English.",
    "You are a storyteller and a teacher.",
)

# term with its article -> (what it is, why it is so)
TERMS: dict[str, tuple[str, str]] = {
    "a span": (
        "A span is a range of layers that one machine serves. It is written as start and end, and "
        "the end is not part of it, so the span [0, 8) holds the layers 0 to 7.",
        "A large model does not fit into the memory of one home machine, but a span of it does. "
        "Each machine loads only its own span, does its part of the work, and sends the result to "
        "the next one. Together the spans of a route cover every layer exactly once.",
    ),
    "a shard": (
        "A shard is the set of weights of one span at one quantization.",
        "It is what a machine really loads into memory. A shard may also carry the ends of the "
        "model, which are the embedding at the front and the final norm with the LM head at the "
        "back. Two machines can hold the same shard, and then one can stand in for the other.",
    ),
    "a layer": (
        "A layer is one transformer block of a model, and layers are counted from 0.",
        "Each layer reads the hidden states, mixes them with attention, and passes them on. "
        "Because the layers run one after the other, a model can be cut between any two of them.",
    ),
    "a hop": (
        "A hop is the part of a route that one provider serves with its span.",
        "The activation arrives at the hop, runs through its layers, and leaves for the next hop. "
        "If a hop fails, another machine with the same layers can take its place.",
    ),
    "a route": (
        "A route is an ordered list of hops whose spans cover all layers of the model exactly "
        "once.",
        "There may be no gap and no overlap, and this is checked when the route is made. "
        "The router looks for a route that is fast, cheap and reliable.",
    ),
    "a session": (
        "A session is one live run of one route for one sequence of tokens.",
        "Every hop keeps the keys and values of the session in its memory, so that each new token "
        "needs only a small step. When the session is closed, that memory is free again.",
    ),
    "a step": (
        "A step is one pass around the route.",
        "A step can carry a chunk of the prompt, a single new token, or a few drafted tokens that "
        "must be verified. On a slow network the number of steps decides how fast the text "
        "appears.",
    ),
    "the head": (
        "The head is the node that drives a session.",
        "It turns text into tokens, opens the route, samples the next token, and signs the "
        "receipts. The head needs no layers of its own, so even a small laptop can be a head.",
    ),
    "the gateway": (
        "The gateway is a head that is hosted for others: HTTP comes in and a session goes out.",
        "A program talks to the gateway as it would talk to any other chat service. "
        "The gateway finds a route, runs the session, and streams the answer back.",
    ),
    "a relay": (
        "A relay is a public node that introduces peers and lends them circuits.",
        "Many home machines sit behind a router and cannot be reached from outside. The relay "
        "helps them to find a direct path, and if there is none, it passes their bytes on. "
        "The bytes stay encrypted, so the relay cannot read them.",
    ),
    "a node": (
        "A node is a running process with a peer id that can serve shards, drive sessions, or "
        "both.",
        "A node starts with its own key, finds its neighbours, and announces the span it serves.",
    ),
    "a provider": (
        "A provider is the account that is paid for serving layers.",
        "A provider lends a machine to the pool, and every token that it carries is counted and "
        "signed by both sides.",
    ),
    "a buyer": (
        "A buyer is the account that pays for the tokens.",
        "The buyer sends a request to the gateway and pays only for what really arrived. "
        "Every charge can be proved with a receipt.",
    ),
    "a receipt": (
        "A receipt is a signed record of what one hop has carried under one lease so far.",
        "Receipts are cumulative, so the largest one counts and a lost one does no harm. "
        "The payer signs it and the hop signs it too. Later the receipts are settled into money.",
    ),
    "a lease": (
        "A lease is a record, signed by the marketplace, which lets a payer use one hop up to a "
        "limit until a certain time.",
        "The hop can check the lease by itself, without asking anybody. When the limit or the time "
        "is reached, the lease ends.",
    ),
    "a quote": (
        "A quote is the price of the marketplace for a route and a bound of work.",
        "If the buyer accepts the quote, the money is set aside and the leases are signed.",
    ),
    "an offer": (
        "An offer is a record in which a provider promises to serve a span at certain rates until "
        "a certain time.",
        "The marketplace collects the offers and searches them for good routes.",
    ),
    "a hold": (
        "A hold is money of a buyer that has been set aside.",
        "After the work is done, the hold is posted for the part that was used, and the rest is "
        "released to the buyer.",
    ),
    "an announcement": (
        "An announcement is a record which says that this peer serves this span now.",
        "It is signed and it expires, so an old announcement cannot mislead anyone for long.",
    ),
    "nanos": (
        "Nanos are billionths of a US dollar, kept as whole numbers.",
        "They are the only money type in Piecework. Whole numbers add up exactly, and floating "
        "point numbers do not, so no cent is ever lost by rounding.",
    ),
    "an activation": (
        "An activation is the hidden state that travels between two hops.",
        "It has one row for each token and one column for each hidden channel. It is much smaller "
        "than the weights, and that is why the weights stay at home and the activation travels.",
    ),
    "a wire dtype": (
        "A wire dtype is the number format in which activations travel, such as bf16 or int8b32.",
        "A smaller format needs fewer bytes on a slow link, and a good one changes the text hardly "
        "at all.",
    ),
    "a frame": (
        "A frame is one message of the session protocol, with its length in front.",
        "Frames open a session, carry a step, bring back a result, or close the session again.",
    ),
    "an epoch": (
        "An epoch is a counter of the repairs of a session.",
        "When a hop is replaced, the epoch goes up by one. Frames of an older epoch are void.",
    ),
    "a sealed route": (
        "A sealed route is a route on which the head embeds and samples by itself, and the hops "
        "see activations only.",
        "No hop sees the text as plain tokens. It is better for privacy, but it is not perfect.",
    ),
    "an open route": (
        "An open route is a route on which hop 0 embeds the tokens and the last hop samples.",
        "It saves some traffic, and it is fine on your own network with your own machines.",
    ),
    "a manifest": (
        "A manifest names an exact set of weights by the hash of its content.",
        "It also lists the layers, the sizes, the dtype and the licence. A node checks the hash "
        "before it uses the weights.",
    ),
    "a token": (
        "A token is a small piece of text, often a word or a part of a word.",
        "A model reads tokens and writes one new token after the other.",
    ),
    "a token-layer": (
        "A token-layer is one token that passes through one layer.",
        "It is the unit of work, and the rates of the providers are given for a million of them.",
    ),
    "settlement": (
        "Settlement turns the receipts of a window into transfers between accounts.",
        "The hold of the buyer pays every provider and the fee, and the sum is always zero.",
    ),
    "a payout": (
        "A payout is money that leaves the system and goes to a provider.",
        "A statement shows what the provider has carried, what is owed, and what was paid.",
    ),
    "a checkpoint": (
        "A checkpoint is the signed size and root of the ledger's log.",
        "With it anyone can check that no entry was changed or removed.",
    ),
    "the KV cache": (
        "The KV cache holds the keys and values of all tokens that a session has seen.",
        "Thanks to it, a new token does not have to read the whole text again.",
    ),
    "drafting": (
        "Drafting means guessing a few tokens ahead and checking them all in one step.",
        "If the guesses are right, several tokens appear for the price of one trip. "
        "If they are wrong, they are thrown away, and the text stays the same.",
    ),
    "quantization": (
        "Quantization stores the weights with fewer bits.",
        "The model becomes smaller and often faster, and it loses a little precision.",
    ),
    "attention": (
        "Attention lets each token look at the tokens before it and take what it needs.",
        "Every layer of a transformer has it, and it needs the keys and values of the past.",
    ),
}

# questions (any of them) -> answers (any of them)
Talk = tuple[tuple[str, ...], tuple[str, ...]]

TOPICS: tuple[Talk, ...] = (
    (
        (
            "Explain what a span is and why a model runs in pieces.",
            "What is a span and why does a model run in pieces?",
            "Explain spans and why the model is cut into pieces.",
            "Why does a model run in pieces?",
            "Why do you run a model in pieces?",
            "Why is the model split?",
        ),
        (
            "A span is a range of layers that one machine serves. A large language model is a tall "
            "stack of layers, and the whole stack is often too big for the memory of one machine. "
            "So the stack is cut into spans, and each machine loads only its own span. When a "
            "token comes in, the first machine runs its layers and sends a small activation to the "
            "next one. The last machine finishes the work, and the next token is chosen. The "
            "weights are heavy, but the activations are light, so they can travel over an ordinary "
            "network. In this way a few small machines can run a model that none of them could "
            "run alone.",
        ),
    ),
    (
        (
            "What is Piecework?",
            "Tell me about Piecework.",
            "Explain Piecework.",
            "What does Piecework do?",
            "What is this project?",
        ),
        (
            "Piecework runs large language models in pieces, on machines at home, and pays for the "
            "pieces. Each machine serves a span of layers, and a route of such spans makes the "
            "whole model. At home you can join your own machines and chat without an account. In "
            "the public pool you can earn money with a machine, or buy tokens and prove every "
            "charge.",
        ),
    ),
    (
        (
            "How does Piecework work?",
            "How does it work?",
            "Explain how Piecework works.",
            "How do you run a model on several machines?",
            "What happens when I send a message?",
        ),
        (
            "First the head turns your text into tokens and looks for a route. The route is a list "
            "of hops, and each hop serves a span of the layers. Then the activation goes round: "
            "from the head to the first hop, to the next hop, and back from the last one. Each hop "
            "runs its layers and keeps its part of the KV cache. The head samples the next token "
            "and starts another step, until the answer is complete.",
        ),
    ),
    (
        (
            "What happens when a hop dies?",
            "What happens if a machine fails?",
            "What if a hop goes away?",
            "Can a session survive a lost machine?",
        ),
        (
            "When a hop dies, the head notices it and asks the router for a replacement. The hop "
            "before it has kept everything that it sent, so it can replay this to the new hop. "
            "The epoch of the session goes up by one, and old frames are void. You see a short "
            "pause, but no error, and then the text goes on.",
        ),
    ),
    (
        (
            "Is my text private?",
            "Is Piecework private?",
            "Can a provider read my text?",
            "What about privacy?",
        ),
        (
            "Not completely. A hop sees activations, and a clever reader can sometimes turn "
            "activations back into text. A sealed route keeps the plain tokens away from the hops, "
            "and that helps. The best way is to use only your own machines or people you trust.",
        ),
    ),
    (
        (
            "How are providers paid?",
            "How do providers earn money?",
            "How does the payment work?",
            "How is the work paid?",
        ),
        (
            "Every piece of work is signed by both sides. The head signs a receipt for each window "
            "of tokens, and the hop keeps the largest one. Later the marketplace settles the "
            "receipts, and the hold of the buyer is turned into transfers to the providers. A hop "
            "never works more than one window unpaid, and a buyer never pays for what did not "
            "arrive.",
        ),
    ),
    (
        (
            "How do I start?",
            "How do I start Piecework?",
            "How can I use Piecework at home?",
            "How do I join?",
            "What do I need to run Piecework?",
        ),
        (
            "Start it with piecework up on each of your machines. They find one another on the "
            "network, share the layers among themselves, and then any of them can answer. If you "
            "want to serve the public pool, use piecework join instead.",
        ),
    ),
    (
        (
            "How large are you?",
            "How big are you?",
            "How many parameters do you have?",
            "What kind of model are you?",
        ),
        (
            "I am a very small Llama model with about four million parameters and eight layers. "
            "I was trained in a few minutes on one processor core. I am good for tests and demos, "
            "and not for real questions.",
        ),
    ),
    (
        (
            "Why do activations travel and not the weights?",
            "Why are the weights not sent?",
            "Why does the activation travel?",
        ),
        (
            "The weights of a span can be many gigabytes, but the activation of one token is only "
            "a few kilobytes. So the weights stay where they are, and only the small activation "
            "goes from hop to hop. That is why an ordinary home network is enough.",
        ),
    ),
    (
        (
            "What makes a route fast?",
            "Why is a session slow?",
            "What decides the speed?",
        ),
        (
            "The time of a step is mostly the time on the network. Few hops, short distances and "
            "fast machines make a route fast. Drafting helps too, because several tokens can "
            "travel in one step.",
        ),
    ),
)

COMPARISONS: dict[tuple[str, str], str] = {
    ("a span", "a shard"): (
        "A span is a range of layers, and a shard is the weights of such a span. The span says "
        "which layers, and the shard is what the machine really loads."
    ),
    ("a hop", "a route"): (
        "A hop is one part of a route. The route is the whole way through all the layers, and each "
        "hop serves one span of it."
    ),
    ("a route", "a session"): (
        "A route is a plan: an ordered list of hops. A session is a live run of that plan, with "
        "tokens and a KV cache at each hop."
    ),
    ("a receipt", "a lease"): (
        "A lease comes before the work and says what a payer may use. A receipt comes with the "
        "work and says what a hop has carried."
    ),
    ("a quote", "an offer"): (
        "An offer comes from a provider and names its rates. A quote comes from the marketplace "
        "and names the price of a whole route."
    ),
    ("a provider", "a buyer"): (
        "A provider serves layers and is paid. A buyer uses the layers and pays."
    ),
    ("a sealed route", "an open route"): (
        "On a sealed route the head embeds and samples, and the hops see activations only. On an "
        "open route the first hop embeds and the last hop samples."
    ),
    ("the head", "the gateway"): (
        "The head drives a session. The gateway is a head that is hosted, so that others can reach "
        "it over HTTP."
    ),
    ("a relay", "a hop"): (
        "A relay only passes encrypted bytes on. A hop runs layers of the model."
    ),
}

TALK: tuple[Talk, ...] = (
    (
        ("Hello", "Hello!", "Hi", "Hi!", "Hey", "Good day!", "Hi there", "Hello there!"),
        ("Hello! How can I help you today?",),
    ),
    (("Good morning", "Good morning!"), ("Good morning! I hope you slept well.",)),
    (("Good evening", "Good evening!"), ("Good evening! What can I do for you?",)),
    (("Good night", "Good night!"), ("Good night, and sleep well!",)),
    (
        ("How are you?", "How are you today?", "How do you do?", "How is it going?"),
        ("I am well, thank you. How are you?",),
    ),
    (("I am fine.", "I am fine, thanks.", "I am well too."), ("I am glad to hear that.",)),
    (
        ("I am sad.", "I feel sad today.", "I am not happy."),
        ("I am sorry to hear that. A short walk or a talk with a friend may help a little.",),
    ),
    (
        ("I am tired.", "I am so tired today."),
        ("Then you should rest a little. Drink some water and close your eyes for ten minutes.",),
    ),
    (
        ("I am hungry.", "What should I eat?", "What can I cook tonight?"),
        ("How about a bowl of soup and some fresh bread? It is quick, warm and cheap.",),
    ),
    (("Thank you", "Thank you!", "Thanks!", "Thanks a lot!"), ("You are welcome!",)),
    (("Bye", "Goodbye!", "See you later!", "Bye bye!"), ("Goodbye! It was nice to talk to you.",)),
    (
        ("Who are you?", "What are you?", "What is your name?", "Tell me about yourself."),
        (
            "I am a tiny language model that was made for Piecework. I can explain a few words, "
            "tell little stories and add small numbers. I run in pieces, on several machines at "
            "once.",
        ),
    ),
    (
        ("What can you do?", "What can you help me with?", "Help", "Help me!"),
        (
            "I can explain the words of Piecework, tell short stories, add small numbers, make "
            "little lists and explain small Python functions. I am very small, so please do not "
            "trust me with important questions.",
        ),
    ),
    (
        ("Are you a human?", "Are you a robot?", "Are you alive?", "Are you real?"),
        ("I am not a human. I am a small computer program that writes text.",),
    ),
    (
        ("Do you like music?", "Do you sing?"),
        ("I cannot hear music, but I like to read about songs.",),
    ),
    (
        ("Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Tell me something funny."),
        ("Why did the layer cross the network? Because its next hop was on the other side!",),
    ),
    (("Do you sleep?", "Do you dream?"), ("No, I do not sleep. I only wait for the next token.",)),
    (
        ("How old are you?", "When were you born?"),
        ("I am very young. I was trained in a few minutes.",),
    ),
    (
        ("What is your favorite color?", "What is your favourite colour?"),
        ("I like blue, the color of the sea and the sky.",),
    ),
    (
        ("Tell me something nice.", "Say something nice."),
        ("The sun rises every morning, and somebody somewhere is happy that you are here.",),
    ),
    (
        ("What is the weather like?", "How is the weather?", "Will it rain today?"),
        ("I cannot look outside, so I do not know. Please open a window and see for yourself.",),
    ),
    (
        ("What time is it?", "What day is today?", "Which day is it?"),
        ("I have no clock, so I cannot tell you.",),
    ),
    (
        ("Test", "test", "This is a test.", "Is this working?", "ping"),
        ("Yes, it works. Your message went through all the layers and came back.",),
    ),
    (
        ("Write a poem.", "Write a short poem.", "Write a poem about the sea."),
        (
            "The sea is wide, the sea is deep,\nthe little waves sing me to sleep.\n"
            "The moon is round, the night is long,\nand every wave brings me a song.",
        ),
    ),
)

FACTS: tuple[tuple[str, str], ...] = (
    ("What color is the sky?", "The sky is blue on a clear day."),
    ("What color is grass?", "Grass is green."),
    ("What color is snow?", "Snow is white."),
    ("What color is a banana?", "A ripe banana is yellow."),
    ("How many days are in a week?", "A week has seven days."),
    ("How many months are in a year?", "A year has twelve months."),
    ("How many hours are in a day?", "A day has twenty-four hours."),
    ("How many minutes are in an hour?", "An hour has sixty minutes."),
    ("How many legs does a spider have?", "A spider has eight legs."),
    ("How many legs does a dog have?", "A dog has four legs."),
    ("What is the capital of France?", "The capital of France is Paris."),
    ("What is the capital of Germany?", "The capital of Germany is Berlin."),
    ("What is the capital of Italy?", "The capital of Italy is Rome."),
    ("What is the capital of Spain?", "The capital of Spain is Madrid."),
    ("What is the capital of England?", "The capital of England is London."),
    ("What is the capital of Japan?", "The capital of Japan is Tokyo."),
    ("What is the capital of Portugal?", "The capital of Portugal is Lisbon."),
    ("What is the capital of Austria?", "The capital of Austria is Vienna."),
    ("What is the capital of Norway?", "The capital of Norway is Oslo."),
    ("What is the capital of Greece?", "The capital of Greece is Athens."),
    ("What is the opposite of hot?", "The opposite of hot is cold."),
    ("What is the opposite of big?", "The opposite of big is small."),
    ("What is the opposite of fast?", "The opposite of fast is slow."),
    ("What is the opposite of day?", "The opposite of day is night."),
    ("What is the opposite of up?", "The opposite of up is down."),
    ("What do cows drink?", "Cows drink water."),
    ("What do bees make?", "Bees make honey."),
    ("What does a cat say?", "A cat says meow."),
    ("Where do fish live?", "Fish live in water."),
    (
        "Why is the sky blue?",
        "The air scatters blue light more than red light, so blue light comes "
        "to us from all sides.",
    ),
    ("Why do leaves fall?", "In autumn many trees save water, so they let their leaves fall."),
    (
        "Why does it rain?",
        "Warm air carries water up into the sky. There it cools, turns into "
        "clouds, and falls down again as rain.",
    ),
    ("What is the sun?", "The sun is a star. It gives us light and warmth."),
    ("What is the moon?", "The moon is a ball of rock that goes around the earth."),
    ("What is water made of?", "Water is made of hydrogen and oxygen."),
    (
        "What is a computer?",
        "A computer is a machine that follows instructions. It reads numbers, "
        "changes them, and writes them down again.",
    ),
    (
        "What is Python?",
        "Python is a programming language. It is easy to read, and it is used for "
        "many things, from small scripts to large systems.",
    ),
    (
        "What is a language model?",
        "A language model is a program that reads text and guesses the "
        "next token. It does this again and again, and so it writes whole sentences.",
    ),
    (
        "What is a neural network?",
        "A neural network is a large function with many numbers inside. "
        "It learns these numbers from examples.",
    ),
    (
        "What is a network?",
        "A network is a group of computers that can send messages to one another.",
    ),
    (
        "How do I make tea?",
        "Boil some water and put a tea bag into a cup. Pour the hot water over "
        "it and wait for three minutes. Then take the bag out and enjoy your tea.",
    ),
    (
        "How do I boil an egg?",
        "Put the egg into boiling water and wait. After six minutes it is "
        "soft, and after ten minutes it is hard.",
    ),
)

LISTS: dict[str, tuple[str, ...]] = {
    "fruits": ("apples", "pears", "plums", "bananas", "grapes"),
    "colors": ("red", "blue", "green", "yellow", "white"),
    "animals": ("a dog", "a cat", "a horse", "a fox", "a bird"),
    "vegetables": ("carrots", "beans", "onions", "potatoes", "peas"),
    "days of the week": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday"),
    "months": ("January", "February", "March", "April", "May"),
    "planets": ("Mercury", "Venus", "Earth", "Mars", "Jupiter"),
    "parts of a route": (
        "the head",
        "the first hop",
        "the second hop",
        "the last hop",
        "the way back",
    ),
    "words of Piecework": ("span", "shard", "hop", "route", "session"),
    "programming languages": ("Python", "C", "Rust", "Java", "Go"),
    "things in a kitchen": ("a pot", "a pan", "a knife", "a spoon", "a cup"),
    "reasons to run a model at home": (
        "It is private.",
        "It works without the internet.",
        "It costs little.",
        "You learn how it works.",
        "Your old machines are useful again.",
    ),
}

# topic -> (hero, story)
STORIES: dict[str, str] = {
    "a lighthouse": (
        "Once upon a time there was an old lighthouse on a small island. A keeper named Mara lived "
        "there with her grey cat. Every night she climbed the stairs and lit the great lamp. One "
        "evening a storm came, and the lamp went dark. Mara heard a ship far out on the sea, and "
        "she knew that it could not find the way. She ran down, took every candle in the house, "
        "and put them all into the high windows. The captain saw the little lights and turned the "
        "ship just in time. In the morning the sailors came to thank her, and they brought her a "
        "new lamp that never went out again."
    ),
    "a robot": (
        "Once upon a time there was a little robot named Bolt. Bolt lived in a quiet workshop and "
        "sorted screws all day. One morning he found a seed between the screws, and he did not "
        "know where to put it. He looked in every box, but no box was right for it. So he carried "
        "it outside and laid it into the warm earth. Every day he brought it a cup of water. In "
        "spring a yellow flower came up, and Bolt was very proud. From then on he was a gardener, "
        "and the screws had to wait."
    ),
    "a cat": (
        "Once upon a time there was a black cat named Minka. She lived above a bakery and loved "
        "the smell of warm bread. One cold night she saw smoke under the kitchen door. Minka cried "
        "as loud as she could, until the baker woke up. He ran down and put out the fire before it "
        "could grow. After that night there was always a cushion beside the oven, and on the "
        "cushion slept Minka."
    ),
    "a dog": (
        "Once upon a time there was a brown dog named Rufus. He walked to the station with his "
        "friend Tom every morning. One day Tom forgot his bag on the bench and got on the train. "
        "Rufus took the bag and ran beside the train as fast as he could. The driver saw him and "
        "stopped. Tom laughed, took his bag, and shared his lunch with the best dog in town."
    ),
    "a river": (
        "Once upon a time there was a river that wanted to be as quick as the wind. It ran past "
        "the villages and never stopped to listen. One summer there was no rain, and the river "
        "became thin and slow. Now it heard the children laugh and the frogs sing on its banks. "
        "When the rain came back, the river was strong again. But in every village it made a "
        "quiet pool, so that it could stop there and listen."
    ),
    "a garden": (
        "Once upon a time there was a garden behind a high wall. Nobody had opened its gate for "
        "many years. A girl named Anna found the key under a stone and went in. She pulled out the "
        "weeds, watered the roses, and mended the bench. Soon the bees came back, and then the "
        "birds, and then the neighbours. In the end the gate was always open, and everyone had a "
        "place to sit."
    ),
    "a train": (
        "Once upon a time there was a small train that carried letters over the mountains. One "
        "winter the snow was so deep that no big train could pass. But a doctor in the last "
        "village needed medicine. The small train went slowly and pushed the snow aside, one "
        "piece after the other. It arrived at midnight, and the whole village came to meet it. "
        "Since that night the children wave whenever they hear its whistle."
    ),
    "a fox": (
        "Once upon a time there was a young fox named Fenn. He was clever, and he told everyone "
        "how clever he was. One day he fell into a deep hole and could not climb out. A mole heard "
        "him and dug a small tunnel to the bottom. Fenn crept out and was very quiet. From that "
        "day on he asked his friends for help, and that was the cleverest thing he ever did."
    ),
    "a ship": (
        "Once upon a time there was a ship that was afraid of the open sea. It stayed near the "
        "harbor and carried only apples. One day a child on an island fell ill, and no other ship "
        "was there. The ship took a deep breath and sailed out into the waves. The stars showed it "
        "the way, and it came back safely with the child. After that the sea was not so big any "
        "more."
    ),
    "a clock": (
        "Once upon a time there was an old clock in a tower. It was always two minutes late, and "
        "the people laughed about it. One day the mayor wanted to throw it away. But on that day "
        "a boy missed the bus by one minute, looked up at the clock, and ran on. He reached the "
        "bus after all, because the driver used the old clock too. So the people kept it, and "
        "everyone had two more minutes."
    ),
    "a machine": (
        "Once upon a time there was an old machine that stood in a dark cellar. It was too small "
        "for the big work, and so nobody used it. One day four other small machines called it over "
        "the network. Each of them held a piece of a great model, and only one piece was missing. "
        "The old machine loaded its layers and took its place in the route. Then a question came "
        "in, went round all five of them, and came back as an answer. The old machine was happy, "
        "because small pieces make a whole."
    ),
    "a star": (
        "Once upon a time there was a little star that shone only weakly. It thought that nobody "
        "could see it. But far below, a boy named Emil looked up at it every night before he went "
        "to sleep. One cloudy night he could not find it and felt lonely. The star saw this and "
        "shone as brightly as it could, until a beam went through the clouds. Emil smiled, and the "
        "star knew that it was seen."
    ),
    "a mountain": (
        "Once upon a time there was a mountain that had never seen the sea. Every evening it asked "
        "the clouds what the sea was like. The clouds could not explain it, so they brought a "
        "little of it along. They let it fall as rain, and the mountain felt it on its stones. "
        "The water ran down as a stream and went back to the sea. And so the two of them have sent "
        "each other letters ever since."
    ),
    "a bakery": (
        "Once upon a time there was a bakery in a narrow street. The baker, an old man named Paul, "
        "made one loaf more than he could sell every day. He put it into the window with a small "
        "sign that said: take me. One morning Paul was ill and the shop stayed closed. At noon "
        "there was a knock at the door, and there stood all the people who had ever taken the "
        "loaf. Each of them had brought him something warm to eat."
    ),
}

PASSAGES: tuple[tuple[str, str], ...] = (
    (
        "The old bridge was closed in spring. Workers replaced the wooden boards and painted the "
        "rails. It opened again in the summer.",
        "The old bridge was repaired and opened again.",
    ),
    (
        "A span is a range of layers. Each machine loads one span. Together the machines run the "
        "whole model.",
        "Several machines run one model, each with a span of layers.",
    ),
    (
        "The library has a new room for children. It has small chairs and many picture books. It "
        "is open every afternoon.",
        "The library has a new room for children.",
    ),
    (
        "Anna missed the bus in the morning. She walked to school in the rain. She arrived late "
        "and very wet.",
        "Anna missed the bus and came to school late and wet.",
    ),
    (
        "The farmers had little rain this year. The wheat stayed short. The price of bread may "
        "rise.",
        "Little rain made a bad harvest, and bread may cost more.",
    ),
    (
        "A receipt says what a hop has carried. It is signed by both sides. Later it is turned "
        "into money.",
        "A receipt is signed proof of work that is paid later.",
    ),
    (
        "The team tested the program for a week. They found three bugs and fixed them. Now it runs "
        "well.",
        "After a week of tests the program runs well.",
    ),
    (
        "The cat slept on the warm stove. The dog slept under the table. Outside it snowed all "
        "night.",
        "The animals slept inside while it snowed.",
    ),
)

# task -> (code, explanation)
CODE: dict[str, tuple[str, str]] = {
    "adds two numbers": (
        "def add(a, b):\n    return a + b",
        "The function takes two numbers and returns their sum.",
    ),
    "reverses a string": (
        "def reverse(text):\n    return text[::-1]",
        "The slice with the step -1 walks through the text from the end to the start.",
    ),
    "finds the largest number in a list": (
        "def largest(numbers):\n    best = numbers[0]\n    for number in numbers:\n"
        "        if number > best:\n            best = number\n    return best",
        "It remembers the best number so far and compares every other number with it.",
    ),
    "counts words": (
        "def count_words(text):\n    return len(text.split())",
        "The text is split at spaces, and the length of the list is the number of words.",
    ),
    "computes the factorial": (
        "def factorial(n):\n    if n <= 1:\n        return 1\n    return n * factorial(n - 1)",
        "The function calls itself with a smaller number until it reaches 1.",
    ),
    "checks if a number is even": (
        "def is_even(n):\n    return n % 2 == 0",
        "The remainder of a division by 2 is 0 for every even number.",
    ),
    "computes the average of a list": (
        "def average(numbers):\n    return sum(numbers) / len(numbers)",
        "It divides the sum of the numbers by how many there are.",
    ),
    "says hello": (
        'def hello(name):\n    print("Hello, " + name + "!")',
        "It joins the name with a greeting and prints the result.",
    ),
    "computes Fibonacci numbers": (
        "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n"
        "    return a",
        "Two variables hold the last two numbers, and each round moves them one place on.",
    ),
    "checks if a span is valid": (
        "def is_valid(start, end, layers):\n    return 0 <= start < end <= layers",
        "A span must begin inside the model, must not be empty, and must not pass the end.",
    ),
    "reads a file": (
        "def read(path):\n    with open(path) as file:\n        return file.read()",
        "The with statement closes the file when the block ends.",
    ),
}
