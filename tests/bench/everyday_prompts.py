"""Short everyday prompts, written for no model: 160 that people send, 40 to look at while a taste is chosen,
and 40 for the judgment in the end. No text is in two of the sets (`disjoint`)."""

TRAFFIC = """
How do I get a red wine stain out of a carpet?
What should I cook tonight with eggs, spinach and feta?
My neighbour plays loud music at night. What can I do?
How can I fall asleep faster?
Write a short birthday message for my grandmother.
What is a good way to learn the guitar as an adult?
Can you explain inflation to me in simple terms?
I have a job interview tomorrow. Any tips?
How often should I water a cactus?
What can I do with leftover rice?
My phone battery drains too quickly. Why?
Give me three ideas for a cheap first date.
How do I ask my boss for a raise?
What is the difference between a virus and bacteria?
Help me say no to a friend who wants to borrow money.
How do I keep bananas fresh for longer?
I feel tired every afternoon. What helps?
What should I pack for a weekend in the mountains?
How do you make pancakes without milk?
Why do cats purr?
Suggest a name for my new puppy.
How can I save money on groceries?
My toddler refuses to eat vegetables. What now?
Write an apology to a colleague for missing a meeting.
What is a mortgage?
How do I remove a splinter?
Is it better to run in the morning or in the evening?
How can I make my small bedroom look bigger?
What do I say in a thank-you note after an interview?
Why does bread rise?
How do I stop biting my nails?
Plan a rainy Sunday with two children.
What is the best way to clean a cast iron pan?
I am nervous about flying. How can I calm down?
How does a vaccine work?
What are some good stretches for lower back pain?
How can I tell if an avocado is ripe?
My laptop is very slow. What should I try first?
Give me a simple recipe for tomato soup.
How do I start a vegetable garden on a balcony?
What is a polite way to end a phone call?
How much water should I drink in a day?
I keep losing my keys. Any ideas?
What are the rules of chess in short?
How do I teach my dog to sit?
Recommend a hobby for someone who works at a desk all day.
Why do leaves change colour in autumn?
How can I make new friends in a new city?
What is a good breakfast before an exam?
How do I unclog a kitchen sink?
Write a two-line poem about the sea.
What should I do if I locked myself out of my flat?
How do I iron a shirt properly?
Can I freeze cooked pasta?
What is the difference between a crocodile and an alligator?
How do I write a good email subject line?
My plant has yellow leaves. What is wrong with it?
How can I be more patient with my kids?
What is compound interest?
How do I get rid of fruit flies?
Give me a warm-up routine before jogging.
What does a project manager do all day?
How do I choose a good melon at the market?
I forgot my best friend's birthday. How do I make up for it?
Why is my bread so dense?
How do I back up the photos on my phone?
What can I use instead of butter when baking?
How do I pick a strong password?
Tell me how a refrigerator keeps things cold.
What is a healthy snack for the office?
How do I split a restaurant bill fairly?
How can I get ink off my hands?
What is mindfulness?
How should I prepare my garden for winter?
What games can we play on a long car ride?
How do I politely complain about cold food in a restaurant?
Why do I get hiccups?
How do I convince my parents to get a dog?
What should I look at when I buy a used bicycle?
How do I make iced coffee at home?
Should I learn Spanish or French?
How do I fold a fitted sheet?
What is a good gift for a teacher?
How can I stop procrastinating?
How are rainbows made?
My shoes smell. What can I do about it?
How do I write a short biography of myself?
What can I do to reduce plastic waste at home?
How do I tell my roommate to clean up?
Is it safe to eat eggs after the date on the box?
What do I need for a picnic?
How do I sharpen a kitchen knife?
How can I remember people's names better?
What is the stock market?
How do I get candle wax off a table?
Describe autumn to someone who has never seen it.
How long should I boil potatoes?
How do I plan a surprise party?
What should I do when a smoke alarm keeps beeping?
How can I improve my handwriting?
What is a podcast, and how do I listen to one?
How do I deal with a rude customer?
What is an easy dessert with apples?
Why does my knee hurt when I climb stairs?
How do I keep a houseplant alive while I travel?
Write a short toast for my sister's wedding.
How do I get better at small talk?
What is the purpose of a resume?
How do I descale a kettle?
What should I know before adopting a cat?
How do I make a paper airplane that flies far?
Can you give me a workout without equipment?
What is the point of daylight saving time?
How can I read more books this year?
How do I clean white trainers?
What could I plant under a big tree?
How do I cancel a gym membership nicely?
Why do we dream?
How do I cook salmon in the oven?
What is a good bedtime routine for a child?
How do I make a budget?
What are signs that I need new glasses?
How do I store fresh herbs?
My friend just lost her job. What can I say to her?
How do I change a flat bicycle tyre?
What should I wear to a funeral?
How can I make my coffee taste less bitter?
What is the best way to learn new words in a language?
How do I move house without going crazy?
How do bees make honey?
Should I pay off debt or save first?
How do I get gum out of hair?
What makes a good leader?
How do I set up a home office in a corner?
What can I cook in one pot for six people?
How do I overcome stage fright?
What is a leap year?
How do I wash a wool sweater?
I burned my tongue. What helps?
How do I write a review of a restaurant?
What should I do on my day off?
How can I keep my house cool in summer without air conditioning?
How do I explain death to a five-year-old?
What is a simple magic trick I can learn?
How do I choose a mattress?
How do I grow tomatoes from seed?
What is the difference between baking soda and baking powder?
How can I spend less time on my phone?
How do I hang a heavy picture?
What are good questions to ask at the end of an interview?
How do I make scrambled eggs creamy?
Why do onions make me cry?
How do I prepare for a half marathon?
What should be in a first aid kit?
How do I take better photos with my phone?
How do I start keeping a diary?
What is the best time to visit a busy museum?
How do I get my baby to nap?
How do I write a cover letter for my first job?
How do I split chores with my partner?
""".strip().splitlines()

SPARE = """
How do I remove grass stains from jeans?
What is a quick lunch I can take to work?
How can I wake up earlier?
Explain what a blockchain is to my aunt.
How do I ask someone out for coffee?
What do I do if my car does not start in the cold?
Suggest a weekend trip for people who like trains.
How do I keep my kitchen sponge clean?
Why does the moon change its shape?
What is a good first instrument for a child?
How do I make a simple salad dressing?
Write a short message to cancel dinner plans.
How do I stop my glasses from fogging up?
What should I feed the birds in winter?
How do I learn to swim as an adult?
How do I tell if milk has gone bad?
What can I do about a squeaky door?
How do I choose a good book for a long flight?
Is it worth repairing an old washing machine?
How do I calm a crying baby?
What is a fair price for babysitting?
How do I get over a breakup?
How do I peel garlic quickly?
What is the difference between jam and marmalade?
How can I make studying less boring?
How do I clean a computer screen?
What are good plants for a dark room?
How do I introduce myself on the first day of work?
Why do my ears pop on a plane?
How do I bake a simple loaf of bread?
What should I ask before renting a flat?
How do I stop my dog from pulling on the leash?
How do I write a wish list without sounding greedy?
What helps against a stuffy nose?
How do I plan meals for a week?
How does a microwave heat food?
What can I do with old T-shirts?
How do I tie a tie?
How do I ask a neighbour to feed my cat?
What is a good way to end a presentation?
""".strip().splitlines()

HELD_OUT = """
How do I get coffee stains out of a mug?
What can I make for dinner in fifteen minutes?
How do I deal with a noisy roommate?
Why is it hard to wake up on Mondays?
Write a short note to thank my neighbour for her help.
How do I learn to cook as a beginner?
What does a tax refund mean?
How should I prepare for a driving test?
How often should I wash my bed sheets?
What can I do with stale bread?
Why does my internet get slow in the evening?
Give me an idea for a cheap family outing.
How do I tell my manager that I am overloaded?
What is the difference between a fruit and a vegetable?
How do I turn down an invitation without being rude?
How do I keep salad fresh in the fridge?
I get headaches at work. What could help?
What should I bring to a beach day with kids?
How do I make an omelette?
Why do dogs wag their tails?
Suggest a theme for a small birthday party.
How can I lower my electricity bill?
My son is afraid of the dark. What should I do?
How do I apologise to my partner after a fight?
What is a credit score?
How do I treat a small burn?
Is it better to rent or to buy a home?
How can I bring more light into a dark room?
How do I reply to a job offer that I need time to think about?
How do clouds form?
How do I quit drinking so much soda?
What can two friends do on a snowy afternoon?
How do I clean a dirty oven?
How can I calm my nerves before a speech?
How does soap work?
What exercises are good for a stiff neck?
How do I know when a steak is done?
My printer will not print. What should I check?
How do I repot a plant?
What is a kind way to give criticism?
""".strip().splitlines()
