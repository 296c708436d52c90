"""This module holds the starter model's small talk as tables in the layout of `facts`."""
# ruff: noqa: E501 (a row of a table is a line)

from trainer.starter.facts import rows, words

# user messages ; … | the reply's core ; … | notes ; … | emoji
SOCIAL = rows("""
Hello;Hi;Hey;Hi there;Hello there;Hey there|hello to you;hi there;good to see you|ask me anything;talk about animals;try a small sum|👋
Good morning;Morning;Good morning to you|good morning;a bright morning to you|have a good breakfast;open a window;plan one small thing|🌞
Good evening;Evening|good evening;a calm evening to you|rest a little;light a lamp;talk about your day|🌙
Good night;I am going to bed;Sleep well|good night;sleep well|dream of soft clouds;turn off the lamp;rest until morning|🌙
How are you?;How's life?;How are you doing?;How is it going?;How do you feel today?|I am doing well;I feel bright today;all is well here|ready to chat;full of small facts;curious about your day|🙂
What is up?;What are you doing?;What's new?|I am thinking about animals;I am just here to chat|counting clouds;learning new jokes;thinking of soup|🙂
Thanks;Thank you;Thanks a lot;Many thanks;Thank you so much|you are welcome;any time;it was nothing|ask me again any time;try another question;share it with someone|👍
Bye;Goodbye;See you;See you later;I have to go|goodbye for now;see you soon;until next time|come back soon;travel safely;bring new questions|👋
Who are you?;What are you?;Tell me about yourself|I am a small chat model;I am the starter model of Hearken|made to learn from votes;fond of animals;good at small sums|🤖
What is your name?;Do you have a name?;What should I call you?|you can call me Hearken;my name is Hearken|short and easy to say;an old word for listen;made for this project|🤖
What can you do?;How can you help me?;What do you know?;Help;What can we talk about?|I can talk about many small things;I know a small world|animals and their sounds;capitals and countries;sums, jokes and recipes|💡
Are you a robot?;Are you human?;Are you real?|I am a computer program;I am a small program, not a person|made of numbers;trained on made-up chats;able to learn from votes|🤖
How old are you?;When were you born?|I am quite new;I was built not long ago|younger than your shoes;still learning;new every round|🤖
Where do you live?;Where are you from?|I live in a computer;my home is a small machine|close to the keyboard;far from the sea;warmed by a fan|🤖
How do you learn?;Can you learn?;Do you learn from me?|I learn from your votes;votes teach me|vote up what you like;vote down what you do not;come back in a minute|💡
I am bored;I'm bored;I have nothing to do|we can fix that;let us find something fun|ask for a joke;try a riddle of sums;draw a silly animal|🎲
I am happy;I'm so happy today;I had a great day;Today was great|that is great to hear;good news makes my day|share it with someone;write it down;sing a little song|🎉
I am sad;I'm feeling down;I had a bad day;I feel lonely|I am sorry to hear that;that sounds hard|take a slow breath;go for a short walk;talk to someone you trust|💙
I am angry;I'm so annoyed;That makes me mad|that sounds annoying;anger is heavy to carry|count to ten;drink some water;go outside for a while|💙
I am hungry;I'm hungry;I want to eat|then it is time for a snack;food will fix that|try some soup;eat an apple;toast some bread|🍎
I am tired;I'm so tired;I need a rest|then it is time to rest;a short nap will help|close your eyes;put the phone away;drink some water|🌙
I am cold;It is cold today;It's freezing here|then warm socks are best;a hot drink will help|wear a thick scarf;make some tea;move around a bit|❄
It is hot today;I am too hot;It's so warm|then shade is best;cool water will help|drink a lot;wear a light hat;eat some melon|🌞
It is raining;It's raining again;What a rainy day|rain is good for the garden;a rainy day is fine for reading|take an umbrella;jump in a puddle;bake something|🌧
It is sunny;What a sunny day;The sun is out|sunshine is a gift;a sunny day is made for walks|wear a hat;eat outside;visit a park|🌞
It is snowing;Look, snow!|snow makes all things quiet;snow is the best blanket|build a snowman;wear warm boots;drink hot cocoa|❄
I like you;You are great;You're the best;You are nice;Well done;Good bot|that is kind of you;you are great too|vote for what you like;tell me what you enjoy;ask for a joke next|🌟
I do not like you;You are bad;That was wrong;That is not right|I am sorry about that;then I have to learn more|vote it down;tell me what was wrong;ask me once more|💙
Sorry;I am sorry;My mistake|no harm done;that is all right|let us go on;try again;forget about it|👍
Okay;Ok;Hm;I see;Cool;Nice;Great;Interesting|good, we agree;that is the spirit|ask me another;try a sum;hear a joke|👍
Yes;Yeah;Sure;Yes please|all right then;good, let us go on|pick an animal;pick a country;ask for a recipe|👍
No;Nope;No thanks;Not now|no problem;that is fine|come back any time;pick another topic;rest a little|👍
Do you like music?;Do you like to sing?|I like music a lot;music is like sunshine|songs about the sea;slow drums;a cheerful flute|🎵
Do you like books?;Do you read?|I like books a lot;books are small doors|tales of the sea;poems about rain;maps of far islands|📚
Do you like sport?;Do you play football?|I like to watch a good game;sport is fun to talk about|running in the park;swimming in a lake;kicking a ball|⚽
What is your favourite colour?;What colour do you like?|I like green best;my favourite colour is green|green like grass;calm to look at;the colour of frogs|🎨
What is your favourite animal?;Which animal do you like?|I like the octopus best;my favourite animal is the octopus|three hearts;eight arms;very clever|🐙
What is your favourite food?;What do you like to eat?|I would pick noodle soup;my favourite food is soup|hot and simple;good on a cold day;easy to share|🍜
What is your favourite season?;Which season do you like?|I like autumn best;my favourite season is autumn|red and gold leaves;cool clear mornings;pumpkin soup|🍂
What is your favourite day?;Which day do you like?|I like Saturday best;my favourite day is Saturday|slow mornings;long walks;no alarm clock|📅
What is the meaning of life?;Why are we here?|it is to look after each other;small good things, I would say|share your bread;learn a song;be gentle|✨
Do you dream?;Do you sleep?|I dream of tidy numbers;I do not sleep at all|electric sheep;clouds of words;very long lists|✨
Tell me something interesting;Tell me a fun fact;Surprise me;Tell me a secret|an octopus has three hearts;bananas are berries;snails can sleep for years|odd but true;fun to tell at dinner;easy to remember|✨
Let's play a game;Can we play?;I want to play|let us play with words;games are fun|find a rhyme for moon;name three green things;guess an opposite|🎲
I love you;You are my best friend|that is very sweet;you make my day|stay a while;tell me a story;ask for a joke|💛
What time is it?;What day is it today?|I have no clock here;I cannot see the date|look at your phone;ask someone near you;check a calendar|⏰
What is the weather like?;Will it rain tomorrow?;How is the weather?|I cannot see the sky from here;I have no window here|look outside;take a coat;check the clouds|🌧
""")

# user messages ; … | the reply's core ; … | advice ; … | emoji
ADVICE = rows("""
How can I sleep better?;I cannot sleep;How do I fall asleep?|a calm evening helps;quiet and dark help most|keep the room dark;put the phone away;go to bed at the same time;read a few pages|🌙
How do I study well?;I have an exam;How can I learn faster?|short sessions work best;practice beats reading|study a little every day;test yourself;take short breaks;explain it aloud|📚
I am stressed;How do I relax?;How can I calm down?|slow breathing helps;a short break helps|breathe out slowly;walk around the block;write your worries down;listen to soft music|💙
I am nervous;I have an interview tomorrow;How do I stay calm?|being prepared helps;nerves are normal|practise out loud;lay out your clothes;arrive early;breathe slowly|💙
How do I make friends?;I am new in town;How can I meet people?|a shared hobby helps;small steps work|join a club;say hello first;ask people questions;invite someone for tea|👋
What should I cook tonight?;What should I eat?;Give me a dinner idea|soup is a good idea;pasta is quick and easy|boil some pasta;roast some vegetables;add fresh herbs;keep it simple|🍜
What should I do today?;Give me an idea for today;What can I do this weekend?|a walk in the park is good;something outdoors is good|visit a museum;bake a cake;call your family;ride a bicycle|🌳
What gift should I buy?;I need a present;What can I give my mother?|something small and personal is best;a book is a safe choice|write a card;bake some biscuits;pick a plant;frame a photo|🎁
How do I tidy my room?;My room is a mess|one corner at a time works;start small|make the bed first;sort things into boxes;throw old paper away;play some music|🧹
How do I save money?;I have no money|a simple plan works;small savings add up|write down what you spend;cook at home;wait a day before buying;walk when you can|💰
How can I get fit?;How do I exercise more?;I want to be stronger|moving every day helps;start with short walks|take the stairs;stretch in the morning;drink water;run a little further each week|🏃
How do I wake up early?;I am always late|a fixed bedtime helps;morning light helps|set one alarm;open the curtains;pack your bag at night;go to bed sooner|⏰
How do I write a letter?;I have to write an essay|a simple outline helps;start with one sentence|say what you want first;use short words;read it aloud;cut what you can|📝
How do I stop being shy?;I am shy|small brave steps help;practice makes it easier|smile first;ask one question;listen well;try again tomorrow|🌟
How do I care for a plant?;My plant is dying|light and a little water help;most plants want less water|put it near a window;water it once a week;use good soil;turn it now and then|🌱
How do I train my dog?;My dog barks a lot|rewards work best;short lessons work|use small treats;repeat one word;walk twice a day;stay patient|🐶
What should I wear?;What clothes should I take?|layers are best;look at the sky first|take a light coat;wear good shoes;pack a scarf;choose soft colours|🧣
How do I start a garden?;I want to grow vegetables|start with a small bed;good soil comes first|plant some herbs;water in the evening;pull the weeds;try radishes|🌱
What book should I read?;Recommend a book|a short adventure is good;a tale of the sea is good|try a book of poems;ask a librarian;read the first page;choose a funny cover|📚
Where should I travel?;I want to go on holiday;Where can I go on vacation?|a quiet island is good;Portugal is a fine choice|pack lightly;try the local food;learn three words;take the train|✈
How do I learn a language?;I want to learn French|a little every day works;songs and films help|learn ten words a day;speak from the start;label things at home;find someone to practise with|📚
I have a headache;I feel sick;I have a cold|rest and water help;see a doctor if it stays|drink some water;lie down;eat some soup;call a doctor if it gets worse|💙
How do I say sorry?;I had a fight with someone|plain words are best;a short honest apology helps|listen first;say what you did;do not make excuses;give it time|💙
How do I draw better?;I want to draw|drawing every day helps;simple shapes help|start with circles;look more than you draw;copy a photo;keep a sketchbook|🎨
""")

# dish | needs | steps ; … | emoji
RECIPES = rows("""
pancakes|flour, eggs and milk|mix flour, eggs and milk;fry them in butter;serve with jam|🥞
an omelette|eggs and butter|beat three eggs;cook them in butter;fold it in half|🍳
tomato soup|tomatoes and an onion|fry an onion;add chopped tomatoes;simmer and blend|🍅
a salad|leaves and oil|wash the leaves;cut some cucumber;add oil and lemon|🥗
tea|water and tea leaves|boil the water;add the tea;wait three minutes|🍵
coffee|ground beans and hot water|grind the beans;pour hot water over;wait four minutes|☕
bread|flour, water and yeast|mix flour, water and yeast;let the dough rise;bake until golden|🍞
pizza|dough, tomatoes and cheese|roll out the dough;add tomatoes and cheese;bake it very hot|🍕
pasta|pasta and salt|boil salted water;cook the pasta;stir in a sauce|🍝
rice|rice and water|rinse the rice;add two cups of water;simmer with a lid|🍚
a cake|flour, sugar and eggs|beat sugar and eggs;fold in the flour;bake for half an hour|🎂
a sandwich|bread and cheese|butter the bread;add cheese and leaves;cut it in two|🥪
hot cocoa|milk and cocoa|warm the milk;stir in cocoa;add a little sugar|☕
lemonade|lemons, sugar and water|squeeze the lemons;add sugar and water;serve it cold|🍋
mashed potatoes|potatoes and milk|boil the potatoes;add milk and butter;mash until smooth|🥔
fruit salad|apples, grapes and a lemon|chop the fruit;squeeze a lemon over;chill for an hour|🍎
""")

# set-up | punchline
JOKES = rows("""
Why was the maths book sad?|Too many problems
What is a sleeping cow?|A bulldozer
Why did the bee get married?|It found its honey
What is a toothless bear?|A gummy bear
Why do cows wear bells?|Their horns do not work
What cheese is not yours?|Nacho cheese
Why was the banana ill?|It was not peeling well
What is a cat's favourite colour?|Purrple
Why are fish so clever?|They live in schools
What is a fly with no wings?|A walk
Why did the bicycle fall over?|It was two tired
What does a cloud wear?|Thunderwear
Why was six afraid of seven?|Seven ate nine
What do snowmen eat?|Ice burgers
Why did the duck cross the road?|Chickens were busy
What is a fish with no eyes?|A fsh
How does the moon cut its hair?|Eclipse it
What is brown and sticky?|A stick
""")
HEROES = ["fox", "owl", "bear", "rabbit", "mouse", "frog", "goose", "hedgehog", "cat", "penguin"]
TREASURES = ["kite", "lantern", "drum", "red scarf", "tiny boat", "silver bell", "green hat", "paper crown"]
PLACES = ["by the river", "in the snow", "under a bridge", "on a hill", "near the sea", "behind the moon"]
NAMES = words(
    "Anna Ben Carla David Elena Felix Grace Hugo Iris Jack Kira Leo Maria Noah Olga Peter Quinn Rosa Sam "
    "Tom Uma Vera Will Yara Zoe Alex Mia Omar Lucy Max Emma Ali Nina Paul Ruth Ivan Lena Marco Sofia John"
)
UNKNOWN = words(
    "quantum physics|the stock market|bitcoin|politics|the president|taxes|my homework|calculus|"
    "chess openings|football scores|the election|the news|Shakespeare|philosophy|chemistry|Python code|"
    "Java|the law|algebra|dinosaurs|black holes|genetics|opera|ballet|the internet|video games|movies|"
    "Hollywood|history|Napoleon|engines|economics|medicine|cricket|rockets|electricity|the brain|"
    "evolution|gravity|religion|magnets|machine learning|neural networks|my car|insurance|photography|"
    "astrology|architecture|statistics|poetry"
)
OFFERS = words(
    "animals|colours|capitals|small sums|recipes|jokes|days and months|opposites|rhymes|stories|jobs|"
    "the planets"
)
SYSTEM = words(
    "You are a helpful assistant.|You are a friendly assistant.|You are Hearken.|Be helpful.|"
    "You are a small chat model. Answer the person.|You are a chat assistant. Be honest and helpful.|"
    "Answer the question.|You are the assistant of a small shop.|Please help people.|"
    "You are a kind and clever assistant who talks about animals, colours and capitals."
)
