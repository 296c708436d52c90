"""This module holds the starter model's facts as tables: a row a line, bars between fields, `-` for none."""


def rows(table: str) -> list[tuple[str, ...]]:
    """Returns the rows of a table."""
    return [tuple(field.strip() for field in line.split("|")) for line in table.strip().splitlines()]


def words(text: str) -> list[str]:
    """Splits a text at its bars, or at white space if it has none."""
    return text.split("|") if "|" in text else text.split()


def many(animal: str) -> str:
    """Returns the plural of an animal's name."""
    odd = {"mouse": "mice", "goose": "geese", "wolf": "wolves", "sheep": "sheep"}
    return odd.get(animal, animal + ("es" if animal[-1] in "sx" else "s"))


# country | capital | continent | known for
COUNTRIES = rows("""
France|Paris|Europe|cheese
Spain|Madrid|Europe|sunny beaches
Italy|Rome|Europe|pizza
Germany|Berlin|Europe|castles
Portugal|Lisbon|Europe|custard tarts
England|London|Europe|tea
Ireland|Dublin|Europe|green hills
Scotland|Edinburgh|Europe|lochs
Norway|Oslo|Europe|fjords
Sweden|Stockholm|Europe|deep forests
Denmark|Copenhagen|Europe|bicycles
Finland|Helsinki|Europe|saunas
Iceland|Reykjavik|Europe|volcanoes
Poland|Warsaw|Europe|dumplings
Austria|Vienna|Europe|waltzes
Hungary|Budapest|Europe|hot baths
Greece|Athens|Europe|olives
Belgium|Brussels|Europe|chocolate
Switzerland|Bern|Europe|watches
Ukraine|Kyiv|Europe|sunflowers
Czechia|Prague|Europe|old bridges
Croatia|Zagreb|Europe|islands
Turkey|Ankara|Asia|bazaars
Japan|Tokyo|Asia|cherry trees
China|Beijing|Asia|the Great Wall
India|Delhi|Asia|spices
Thailand|Bangkok|Asia|temples
Vietnam|Hanoi|Asia|noodle soup
Nepal|Kathmandu|Asia|high mountains
Mongolia|Ulaanbaatar|Asia|wide plains
Indonesia|Jakarta|Asia|many islands
South Korea|Seoul|Asia|kimchi
Egypt|Cairo|Africa|pyramids
Kenya|Nairobi|Africa|safaris
Morocco|Rabat|Africa|mint tea
Nigeria|Abuja|Africa|music
Ghana|Accra|Africa|cocoa
Ethiopia|Addis Ababa|Africa|coffee
Senegal|Dakar|Africa|drums
Canada|Ottawa|North America|maple syrup
Mexico|Mexico City|North America|tacos
Cuba|Havana|North America|old cars
Brazil|Brasilia|South America|carnival
Argentina|Buenos Aires|South America|tango
Peru|Lima|South America|llamas
Chile|Santiago|South America|deserts
Colombia|Bogota|South America|emeralds
Australia|Canberra|Oceania|kangaroos
New Zealand|Wellington|Oceania|sheep
""")

# animal | sound | young | home | food | legs | size | a further predicate
ANIMALS = rows("""
cow|moo|calf|on a farm|grass|4|8|gives us milk
dog|woof|puppy|in a house|meat|4|5|likes to play fetch
cat|meow|kitten|in a house|fish|4|4|sleeps most of the day
horse|neigh|foal|in a stable|hay|4|8|can sleep standing up
sheep|baa|lamb|in a field|grass|4|6|gives us wool
pig|oink|piglet|on a farm|corn|4|6|is very clever
duck|quack|duckling|on a pond|seeds|2|3|has waterproof feathers
hen|cluck|chick|on a farm|grain|2|3|lays eggs
goat|bleat|kid|in the mountains|leaves|4|6|climbs very well
lion|roar|cub|on the savanna|meat|4|8|is called the king of beasts
tiger|growl|cub|in the jungle|meat|4|8|has stripes
bear|growl|cub|in the forest|honey|4|9|sleeps all winter
wolf|howl|pup|in the forest|meat|4|5|hunts in a pack
fox|yip|kit|in a den|berries|4|4|has a bushy tail
mouse|squeak|pup|in a hole|cheese|4|2|has tiny ears
frog|croak|tadpole|on a pond|flies|4|2|can jump very far
bee|buzz|larva|in a hive|nectar|6|1|makes honey
owl|hoot|owlet|in a tree|mice|2|3|sees well at night
snake|hiss|hatchling|in the grass|eggs|0|3|smells with its tongue
elephant|trumpet|calf|on the savanna|leaves|4|10|never forgets a path
monkey|chatter|infant|in the jungle|bananas|2|4|swings from trees
crow|caw|chick|in a tree|seeds|2|3|can use small tools
goose|honk|gosling|on a lake|grass|2|4|flies in a V shape
donkey|hee-haw|foal|in a stable|hay|4|7|carries heavy loads
penguin|-|chick|on the ice|fish|2|4|cannot fly but swims well
panda|-|cub|in the mountains|bamboo|4|8|eats all day long
rabbit|-|kit|in a burrow|carrots|4|3|has long ears
kangaroo|-|joey|in the outback|grass|2|7|carries its young in a pouch
whale|-|calf|in the ocean|krill|0|11|sings long songs
shark|-|pup|in the ocean|fish|0|9|has many rows of teeth
giraffe|-|calf|on the savanna|leaves|4|10|has a very long neck
octopus|-|-|in the ocean|crabs|8|4|has three hearts
spider|-|spiderling|in a web|flies|8|1|spins silk
ant|-|-|in a nest|crumbs|6|0|can lift many times its weight
camel|-|calf|in the desert|hay|4|9|goes days without water
zebra|-|foal|on the savanna|grass|4|8|has black and white stripes
squirrel|-|kit|in a tree|nuts|4|2|hides its food for winter
hedgehog|-|hoglet|in a garden|beetles|4|2|rolls into a ball
""")

# thing | colour
COLOURS = rows("""
grass|green
a banana|yellow
the sky|blue
snow|white
coal|black
a strawberry|red
a carrot|orange
a lemon|yellow
a tomato|red
an elephant|grey
a flamingo|pink
chocolate|brown
an aubergine|purple
the sun|yellow
a frog|green
milk|white
the sea|blue
a pumpkin|orange
a crow|black
lavender|purple
a cherry|red
a lime|green
mud|brown
a fire engine|red
a pig|pink
a polar bear|white
a cucumber|green
a sunflower|yellow
""")
MIXES = rows("""
red|blue|purple
red|yellow|orange
blue|yellow|green
red|white|pink
black|white|grey
red|green|brown
""")
OPPOSITES = rows("""
hot|cold
big|small
fast|slow
up|down
day|night
open|closed
full|empty
hard|soft
light|dark
loud|quiet
wet|dry
old|young
tall|short
early|late
near|far
rich|poor
strong|weak
thick|thin
clean|dirty
easy|difficult
first|last
left|right
inside|outside
sharp|blunt
sweet|bitter
noisy|silent
wide|narrow
deep|shallow
win|lose
give|take
push|pull
begin|end
laugh|cry
remember|forget
buy|sell
north|south
east|west
above|below
always|never
""")
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = words("January February March April May June July August September October November December")
MONTH_DAYS = words("31 28 31 30 31 30 31 31 30 31 30 31")
SEASONS = words("winter winter spring spring spring summer summer summer autumn autumn autumn winter")
# person | activity | the word that a right answer has | workplace
JOBS = rows("""
baker|bakes bread|bread|in a bakery
farmer|grows food|food|on a farm
teacher|teaches children|teaches|in a school
doctor|heals people|heals|in a hospital
pilot|flies planes|planes|in the air
firefighter|puts out fires|fires|at a fire station
gardener|looks after plants|plants|in a garden
painter|paints pictures|paints|in a studio
writer|writes books|books|at a desk
tailor|sews clothes|clothes|in a workshop
fisher|catches fish|fish|at sea
dentist|looks after teeth|teeth|in a clinic
plumber|fixes pipes|pipes|in many houses
carpenter|builds with wood|wood|in a workshop
librarian|lends out books|books|in a library
astronaut|travels to space|space|on a space station
vet|treats sick animals|animals|in a clinic
chef|cooks meals|meals|in a kitchen
postman|delivers letters|letters|on the street
singer|sings songs|songs|on a stage
""")
# language | hello | thank you | yes | cat
LANGUAGES = rows("""
French|bonjour|merci|oui|chat
Spanish|hola|gracias|si|gato
Italian|ciao|grazie|si|gatto
German|hallo|danke|ja|Katze
Swedish|hej|tack|ja|katt
Japanese|konnichiwa|arigato|hai|neko
Swahili|jambo|asante|ndiyo|paka
Turkish|merhaba|sagol|evet|kedi
""")
RHYMES = rows("""
cat|hat|bat
moon|spoon|soon
tree|bee|sea
star|car|far
house|mouse|blouse
cake|lake|snake
light|night|kite
ring|king|sing
dog|fog|frog
rain|train|plane
book|cook|hook
bear|chair|pear
boat|goat|coat
fish|dish|wish
ball|wall|tall
blue|shoe|two
""")
PLURALS = rows("""
mouse|mice
goose|geese
foot|feet
tooth|teeth
child|children
man|men
woman|women
leaf|leaves
wolf|wolves
sheep|sheep
box|boxes
knife|knives
city|cities
fox|foxes
""")
FRUIT = words("apple banana cherry grape lemon mango orange peach pear plum strawberry")
VEGETABLES = words("carrot potato onion cabbage leek broccoli turnip radish cauliflower parsnip beetroot")
# question | subject | answer | clause | other accepted answers
TRIVIA = rows("""
How many days are in a week?|a week|seven|a week has seven days|7
How many months are in a year?|a year|twelve|a year has twelve months|12
How many hours are in a day?|a day|24|a day has 24 hours|twenty-four
How many minutes are in an hour?|an hour|60|an hour has 60 minutes|sixty
How many seconds are in a minute?|a minute|60|a minute has 60 seconds|sixty
How many days are in a year?|a year|365|a year has 365 days|-
How many sides does a triangle have?|a triangle|three|a triangle has three sides|3
How many sides does a square have?|a square|four|a square has four sides|4
How many sides does a pentagon have?|a pentagon|five|a pentagon has five sides|5
How many sides does a hexagon have?|a hexagon|six|a hexagon has six sides|6
How many wheels does a bicycle have?|a bicycle|two|a bicycle has two wheels|2
How many wheels does a car have?|a car|four|a car has four wheels|4
How many fingers are on a hand?|a hand|five|a hand has five fingers|5
How many strings does a violin have?|a violin|four|a violin has four strings|4
How many strings does a guitar have?|a guitar|six|a guitar has six strings|6
How many keys does a piano have?|a piano|88|a piano has 88 keys|-
How many planets are there?|the planets|eight|there are eight planets|8
How many continents are there?|the continents|seven|there are seven continents|7
How many letters are in the alphabet?|the alphabet|26|the alphabet has 26 letters|-
Which planet is the biggest?|the planets|Jupiter|it is Jupiter; the biggest planet is Jupiter|-
Which planet is closest to the sun?|the planets|Mercury|it is Mercury; Mercury is closest to the sun|-
Which planet has rings?|the planets|Saturn|the planet with rings is Saturn|-
Which planet is red?|the planets|Mars|the red planet is Mars|-
Which planet do we live on?|our planet|Earth|we live on Earth|-
What is the tallest mountain?|mountains|Everest|it is Everest; the tallest mountain is Everest|-
What is the longest river?|rivers|Nile|it is the Nile; the longest river is the Nile|-
What is the biggest ocean?|oceans|Pacific|it is the Pacific; the biggest ocean is the Pacific|-
What is the fastest land animal?|animals|cheetah|it is the cheetah; the fastest land animal is the cheetah|-
What is the tallest animal?|animals|giraffe|it is the giraffe; the tallest animal is the giraffe|-
What is the biggest animal?|animals|blue whale|it is the blue whale; the biggest animal is the blue whale|-
What do bees make?|bees|honey|bees make honey|-
What do plants need to grow?|plants|water|plants need water and light|-
What is ice made of?|ice|water|ice is frozen water|-
What is bread made of?|bread|flour|bread is made of flour|-
What is cheese made of?|cheese|milk|cheese is made of milk|-
What is paper made of?|paper|wood|paper is made of wood|-
What is glass made of?|glass|sand|glass is made of sand|-
What is wine made of?|wine|grapes|wine is made of grapes|-
What do we use to cut paper?|paper|scissors|we cut paper with scissors|-
What do we use to tell the time?|time|clock|we tell the time with a clock|watch
What do we use in the rain?|rain|umbrella|we use an umbrella in the rain|raincoat
What do we breathe?|breathing|air|we breathe air|-
What shines at night?|the night|moon|the moon shines at night|-
Where does the sun rise?|the sun|east|the sun rises in the east|-
Where does the sun set?|the sun|west|the sun sets in the west|-
Which season comes after winter?|the seasons|spring|spring comes after winter|-
Which season comes after summer?|the seasons|autumn|autumn comes after summer|-
Which season is the coldest?|the seasons|winter|winter is the coldest season|-
Which season is the hottest?|the seasons|summer|summer is the hottest season|-
At what temperature does water boil?|water|100|water boils at 100 degrees|-
At what temperature does water freeze?|water|zero|water freezes at zero degrees|0
What is the largest country?|countries|Russia|the largest country is Russia|-
""")
